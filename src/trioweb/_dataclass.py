"""Data classes whose methods are written when one of them is first asked for.

`dataclasses.dataclass` writes six methods for a frozen class and compiles them, half a millisecond
for each class: for the forty of options, events and statistics that was two fifths of what
`import trioweb` took, and few programs use half of them.  A class made here is the same in all that
can be asked of it, as the standard library writes what it has.  Only the time differs: the
first object of a class waits for its methods.

It must not know any of the classes.  Those of `trioweb.testing`, and the few with other options,
are the standard library's.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False) -> Any:
        """Return a decorator as `dataclasses.dataclass` does, for a class with slots.

        Each annotation must be a field, and no base a data class.
        """

        def decorate(plain: type[Any]) -> type[Any]:
            namespace = {
                name: value
                for name, value in vars(plain).items()
                if name not in ("__dict__", "__weakref__")
            }
            namespace["__qualname__"] = plain.__qualname__
            fields = tuple(plain.__annotations__)
            own = {name: value for name, value in namespace.items() if name not in fields}
            late = _LATE if frozen else _LATE_UNLESS_FROZEN
            cls = type(plain.__name__, plain.__bases__, {**late, **own, "__slots__": fields})
            options = {"slots": slots, "frozen": frozen, "kw_only": kw_only}
            _sources[cls] = namespace, options
            return cls

        return decorate


# Of each class what it is written from.
_sources: dict[type[Any], tuple[dict[str, Any], dict[str, bool]]] = {}


class _Late:
    """What a class lacks until it is first asked for.

    Args:
        name: what it is.
        together: what is written with it.
        less: options that leave out what is not.
    """

    __slots__ = ("_less", "_name", "_together")

    def __init__(self, name: str, together: Set[str], less: dict[str, bool]) -> None:
        self._name = name
        self._together = together
        self._less = less

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        # The signature of a class is looked for with the class as the instance (Python 3.13).
        bases = (*owner.__mro__, *getattr(instance, "__mro__", ()))
        cls = next(each for each in bases if each in _sources)
        namespace, options = _sources[cls]
        # Of a class of its own each time: two threads may ask at once, and an interrupt may come.
        again = type(cls.__name__, cls.__bases__, dict(namespace))
        made: type[Any] = dataclasses.dataclass(**options, **self._less)(again)
        for name in self._together & vars(made).keys():
            setattr(cls, name, vars(made)[name])
        # Not by the name again, which may be another's in a subclass.
        value = vars(cls)[self._name]
        return value.__get__(instance, owner) if hasattr(value, "__get__") else value


# What an object is made with, and the rest: of most classes none is ever compared or shown.
_TO_MAKE = {
    "__dataclass_fields__",
    "__delattr__",
    "__getstate__",
    "__init__",
    "__match_args__",
    "__setattr__",
    "__setstate__",
}
_REST = {
    "__dataclass_params__",
    "__eq__",
    "__hash__",
    "__repr__",
    *(["__replace__"] if sys.version_info >= (3, 13) else []),
}
_LATE = {name: _Late(name, _TO_MAKE, {"eq": False, "repr": False}) for name in _TO_MAKE}
_LATE |= {name: _Late(name, _REST, {}) for name in _REST}
_ONLY_FROZEN = {"__delattr__", "__getstate__", "__hash__", "__setattr__", "__setstate__"}
_LATE_UNLESS_FROZEN = {name: late for name, late in _LATE.items() if name not in _ONLY_FROZEN}
