"""Tokens: given once, or asked for whenever there is none that is good."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from .._arguments import check_async, check_kind
from .._callbacks import awaitable

TokenArgument: TypeAlias = str | Callable[[], Awaitable[str]] | None

# A token is renewed when so much of its time has passed: it may be hard to come by.
_RENEW_AFTER: Final = 0.9


def renewal(ttl: int | None) -> float:
    """When a token that is good for *ttl* seconds from now on is to be renewed; None: never."""
    return math.inf if ttl is None else trio.current_time() + _RENEW_AFTER * ttl


class Token:
    """The token of a connection, or of a subscription.

    Args:
        seconds: that the program may take to make one.
    """

    def __init__(self, owner: str, source: TokenArgument, seconds: float) -> None:
        if callable(source):
            check_async(owner, "token()", source)
        else:
            check_kind(owner, "token", source, str, optional=True)
        self._source = source
        self._seconds = seconds
        self._known: str | None = None

    @property
    def is_renewable(self) -> bool:
        return callable(self._source)

    async def get(self) -> str:
        """The token; "" for none.

        Raises:
            trio.TooSlowError: it could not be made in time.
            What the program's callable does.
        """
        if not callable(self._source):
            return self._source or ""
        if self._known is None:
            with trio.fail_after(self._seconds):
                token = await awaitable("token()", self._source())
            check_kind("token()", "what it returns", token, str)
            self._known = token
        return self._known

    def drop(self) -> None:
        """It is no good any more: the next one is asked for."""
        self._known = None
