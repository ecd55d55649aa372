"""Sockets beyond the limit of connections, for whoever asks how the server is.

A full server is a healthy one: a probe that got a 503 from it would have it killed, with everybody
on it.  So a few more are read, and those that want anything else are refused then.
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
    """The sockets beyond the limit."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._scopes)

    def take(self, scope: trio.CancelScope) -> None:
        """Have one for what runs in *scope*, until it is released.  If all are taken, the oldest
        scope is cancelled: so a peer that says nothing is in nobody's way for long."""
        if len(self._scopes) >= _SPARES:
            oldest = next(iter(self._scopes))
            self.release(oldest)
            oldest.cancel()
        self._scopes[scope] = None

    def release(self, scope: trio.CancelScope) -> None:
        """There is room for this one, or it has gone, if it was one of them at all."""
        self._scopes.pop(scope, None)
