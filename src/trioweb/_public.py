"""Which module users see what is public in: the one that they import it from.

Tracebacks, `repr`, `help` and pickles name a thing by its `__module__`.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType


def show_in(module: str, things: Iterable[object]) -> None:
    """Have *things* be seen in *module* from now on, if they are classes and functions; an alias of
    a type cannot say where it is."""
    for thing in things:
        if isinstance(thing, (type, FunctionType)):
            thing.__module__ = module
