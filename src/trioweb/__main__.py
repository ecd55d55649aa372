"""`python -m trioweb`: the `trioweb` command for whoever has no scripts on the path."""

import sys

from trioweb._cli import main

sys.exit(main())
