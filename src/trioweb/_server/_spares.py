"""Sockets beyond the limits of connections, for peers to which a 503 must not be told unheard.

A full server is a healthy one: a probe that got a 503 from it would have it killed, with everybody
on it.  An EventSource that got one would never come back.  So a few more are read, and those that
want anything else are refused then.
"""

from __future__ import annotations

from typing import Final

import trio

from .._handshake import is_upgrade
from .._protocol._http import Request

# Probes come from a few places, every few seconds; and peers that are silent cost no more.
_SPARES: Final = 16
_PATHS: Final = frozenset({"/healthz", "/stats"})


def asks_for_health(request: Request) -> bool:
    """Whether *request* is one that is answered at capacity."""
    return not is_upgrade(request) and request.path in _PATHS


class Spares:
    """The sockets beyond the limits."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, str] = {}  # the oldest first, with their hosts

    def __len__(self) -> int:
        return len(self._scopes)

    def of(self, host: str) -> int:
        """How many of them *host* has."""
        return sum(other == host for other in self._scopes.values())

    def take(self, scope: trio.CancelScope, host: str) -> None:
        """Have one for what *host* runs in *scope*, until it is released.

        If all are taken, the oldest scope is cancelled: so a peer that says nothing is in nobody's
        way for long.
        """
        if len(self._scopes) >= _SPARES:
            oldest = next(iter(self._scopes))
            self.release(oldest)
            oldest.cancel()
        self._scopes[scope] = host

    def release(self, scope: trio.CancelScope) -> None:
        """There is room for this one, or it has gone, if it was one of them at all."""
        self._scopes.pop(scope, None)
