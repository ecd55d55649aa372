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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, slots: bool, frozen: bool = False, kw_only: bool = False
    ) -> Callable[[type[Any]], type[Any]]:
        """Return a decorator as `dataclasses.dataclass` does, for a class with slots.

        Each annotation must be a field, and no base a data class.
        """

        def decorate(plain: type[Any]) -> type[Any]:
            return _late(plain, frozen=frozen, slots=slots, kw_only=kw_only)

        return decorate


# What an object is made with, and the rest: of most classes none is ever compared or shown.
_TO_MAKE = {"__dataclass_fields__", "__init__", "__match_args__"}
_TO_MAKE_FROZEN = {"__delattr__", "__getstate__", "__setattr__", "__setstate__"}
_REST = {"__dataclass_params__", "__eq__", "__repr__"}
_REST_FROZEN = {"__hash__"}
if sys.version_info >= (3, 13):
    _REST.add("__replace__")


class _Late:
    """What a class lacks until it is first asked for."""

    __slots__ = ("_name", "_write")

    def __init__(self, name: str, write: Callable[[], Mapping[str, Any]]) -> None:
        self._name = name
        self._write = write

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        written = self._write()[self._name]
        # Not by the name again, which may be another's in a subclass.
        return written.__get__(instance, owner) if hasattr(written, "__get__") else written


def _late(plain: type[Any], *, frozen: bool, **options: bool) -> type[Any]:
    namespace = {
        name: value
        for name, value in vars(plain).items()
        if name not in ("__dict__", "__weakref__")
    }
    namespace["__qualname__"] = plain.__qualname__
    fields = tuple(plain.__annotations__)

    def written(names: set[str], **fewer: bool) -> dict[str, _Late]:
        def write() -> dict[str, Any]:
            # Of a class of its own each time: two threads may ask at once, and an interrupt come.
            again = type(plain.__name__, plain.__bases__, dict(namespace))
            made: type[Any] = dataclasses.dataclass(frozen=frozen, **options, **fewer)(again)
            values = {name: vars(made)[name] for name in late}
            for name, value in values.items():
                setattr(cls, name, value)
            return values

        late = names - namespace.keys()
        return {name: _Late(name, write) for name in late}

    shown = {name: value for name, value in namespace.items() if name not in fields}
    shown |= written(_TO_MAKE | _TO_MAKE_FROZEN if frozen else _TO_MAKE, eq=False, repr=False)
    shown |= written(_REST | _REST_FROZEN if frozen else _REST)
    cls = type(plain.__name__, plain.__bases__, {**shown, "__slots__": fields})
    return cls
