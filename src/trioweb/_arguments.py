"""What users give: checked when it is given, and told by the argument's name.

A check that fails names the argument, what would be right and what was given instead, but shows
that only where it cannot be a secret: of a text, a header or an object it tells the kind.  Nothing
here knows what an argument is for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110 section 5.5: blanks only between visible characters.
_HEADER_VALUE: Final = re.compile(r"(?:[\x21-\x7e]+(?:[\t ]+[\x21-\x7e]+)*)?")
_PAIRS: Final = "(name, value) pairs or a mapping"
_NAMED: Final = (FunctionType, MethodType, BuiltinFunctionType)


def shown(value: object) -> str:
    """*value* as the text of an error may have it."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, _NAMED):
        return str(value.__qualname__)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def wrong(owner: str, name: str, what: str, value: object) -> TypeError:
    """The error that says that *name*, an argument of *owner*, must be *what*."""
    return TypeError(f"{owner}: {name} must be {what}, not {shown(value)}")


def check_kind(owner: str, name: str, value: object, *kinds: type, optional: bool = False) -> None:
    """Raise TypeError unless *value* is one of *kinds*, or None where that is *optional*.

    A bool is no number: who passes one meant another argument.
    """
    good = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    if not good and not (optional and value is None):
        names = [kind.__name__ for kind in kinds] + ["None"] * optional
        raise wrong(owner, name, f"of type {' or '.join(names)}", value)


def is_count(value: object, *, least: int = 0) -> bool:
    """Whether *value* is a whole number from *least* on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_texts(owner: str, name: str, values: object) -> tuple[str, ...]:
    """Return *values* as they are now; they must be several str, and not one."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise wrong(owner, name, "a collection of str", values)
    found = tuple(values)
    for value in found:
        check_kind(owner, f"each of {name}", value, str)
    return found


def check_async(owner: str, call: str, value: object, *, optional: bool = False) -> None:
    """Raise TypeError unless *value* can be called and its result be awaited, as far as that shows.

    Args:
        call: the argument's name and its parameters, as in `admit(request)`.
        optional: whether it may be None.
    """
    if optional and value is None:
        return
    if not callable(value):
        what = f"an async function{' or None' if optional else ''}: `async def {call}`"
        raise wrong(owner, call.partition("(")[0], what, value)
    if not _may_be_async(value):
        raise TypeError(
            f"{owner}: {call.partition('(')[0]} must be an async function: `async def {call}`; "
            f"{shown(value)} is not async"
        )


def check_passes_on(owner: str, call: str, value: object) -> None:
    """Raise TypeError unless *value* can be called, or is None: for what most often only passes
    on the result of an async function, so that it need not be one.  `_callbacks` looks at the
    rest.

    Args:
        call: as for `check_async`.
    """
    if value is not None and not callable(value):
        what = f"an async function or None: `async def {call}`"
        raise wrong(owner, call.partition("(")[0], what, value)


def check_sync(owner: str, call: str, value: object) -> None:
    """Raise TypeError unless *value* can be called, and what it returns is there at once.

    Args:
        call: as for `check_async`.
    """
    name = call.partition("(")[0]
    if not callable(value):
        raise wrong(owner, name, f"a function: `def {call}`", value)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise TypeError(f"{owner}: {name} must not be async: `def {call}`; {shown(value)} is async")


def _may_be_async(function: Any) -> bool:
    """Whether a call of *function* may be awaited.

    Only what is written in Python tells.  What has another way of being called is let through,
    and a decorator that says what it wraps (`functools.wraps`) is believed to pass that on.
    """
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, (FunctionType, MethodType, type)):
        function = getattr(type(function), "__call__", function)  # noqa: B004
    if isinstance(function, type):
        return hasattr(function, "__await__")
    if not isinstance(function, (FunctionType, MethodType)):
        return True
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        inspect.unwrap(function)
    )


def is_token(text: str) -> bool:
    """Whether *text* is a token of RFC 9110, as a header's or a subprotocol's name must be."""
    return _TOKEN.fullmatch(text) is not None


def check_headers(owner: str, headers: object) -> tuple[tuple[str, str], ...]:
    """Return *headers*, a mapping or (name, value) pairs, as the pairs that they are now.

    Raises:
        TypeError, ValueError: they cannot stand in a head.  Values are not repeated: they may be
            secrets.
    """
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise wrong(owner, "headers", _PAIRS, headers)
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise wrong(owner, "each of headers", "a (name, value) pair", pair)
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"{type(name).__name__} and {type(value).__name__}"
            raise TypeError(f"{owner}: each of headers must be two str, not {kinds}")
        if not is_token(name):
            raise ValueError(f"{owner}: header name {name!r} is not a token (RFC 9110)")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"{owner}: the value of header {name!r} must be printable ASCII, without blanks "
                "around it"
            )
    return tuple((name, value) for name, value in pairs)
