"""What users' functions give back, looked at before it is awaited."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any

from trio.lowlevel import enable_ki_protection

from ._arguments import shown


# An interrupt in here would leave a coroutine that is never awaited.
@enable_ki_protection
def awaitable(call: str, result: Any) -> Awaitable[Any]:
    """Return *result*, what *call* has returned, if it can be awaited.

    Raises:
        TypeError: it cannot.
    """
    if not inspect.isawaitable(result):
        name = call.partition("(")[0]
        raise TypeError(
            f"{name} must be an async function: `async def {call}`; it returned {shown(result)}"
        )
    return result
