"""What pytest must know before it collects: which tests cannot be imported here."""

import signal
from importlib.util import find_spec

# A shell that starts a command in the background has it ignore Ctrl-C, and so would every
# program that the tests start, and end with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The browser tests import Playwright, which only their own session installs.
collect_ignore = [] if find_spec("playwright") else ["browser"]
