"""What pytest must know before it collects: which tests cannot be imported here."""

from importlib.util import find_spec

# The browser tests import Playwright, which only their own session installs.
collect_ignore = [] if find_spec("playwright") else ["browser"]
