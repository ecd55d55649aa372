"""The command line.  The only place that prints.

Exit codes: 0 for a normal end, 1 for a failure while running, 2 for what the user can mend
before starting again (one line says what), 130 for Ctrl-C where that is not a normal end.
"""

from ._main import main as main
