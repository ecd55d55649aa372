"""Which module users see what is public in: the one that they import it from.

Tracebacks, `repr`, `help` and pickles name a thing by its `__module__`.
"""

from __future__ import annotations

from types import FunctionType
from typing import TypeVar

_T = TypeVar("_T")


def shown_in(module: str, thing: _T) -> _T:
    """Return *thing*, which is seen in *module* from now on if it is a class or a function; an
    alias of a type cannot say where it is."""
    if isinstance(thing, (type, FunctionType)):
        thing.__module__ = module
    return thing
