"""The pulse of one peer: when it last gave a sign of life, and what it was asked for one.

It judges nobody, which is `_heartbeat`'s; and it ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .._chance import random_bytes
from .._logs import Named
from .._policy import Message
from .._protocol._frames import PING, WireForm, encode_frame, encode_message
from .._protocol._pings import Ping, Pings
from ._contain import call_back
from ._queue import SendQueue


class Pulse:
    """Signs of life.

    Args:
        queue: where pings leave.
        form: how they are written to this peer.

    Attributes:
        heard_at: when the peer last gave a sign of life.
        asked_at: since when one that was asked for is awaited; None if none is.
        latency: seconds that the last answered ping took; None before the first.
    """

    __slots__ = ("_form", "_pings", "_queue", "asked_at", "heard_at", "latency")

    def __init__(self, queue: SendQueue, form: WireForm) -> None:
        self._queue = queue
        self._form = form
        # Made when first needed: a peer that talks is asked nothing.
        self._pings: Pings | None = None
        self.heard_at = trio.current_time()
        self.asked_at: float | None = None
        self.latency: float | None = None

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = trio.current_time()
        self.asked_at = None

    def ping(
        self,
        on_pong: Callable[[], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Ping:
        """Send a ping behind everything written so far.

        Args:
            on_pong: called at its pong.  An error that it raises is logged, and reaches nobody.
            on_end: called if nothing can be written any more, perhaps in the middle of what
                somebody writes: it may do no more than wake a task.
        """
        if self._pings is None:
            self._pings = Pings(random_bytes(4))
        ping = self._pings.make(trio.current_time(), on_pong, on_end)
        self._queue.put(encode_frame(PING, ping.payload, masked=self._form.masked))
        return ping

    def ask(self, message: Message | None) -> Ping | None:
        """Ask the peer for a sign of life: with *message*, or with a ping."""
        self.asked_at = trio.current_time()
        if message is None:
            return self.ping()
        self._queue.put(encode_message(message, self._form))
        return None

    def forget(self, ping: Ping) -> None:
        """Nobody waits for *ping* any more."""
        if self._pings is not None:
            self._pings.forget(ping)

    def pong(self, payload: bytes, whose: Named) -> None:
        """A pong has come from *whose* peer."""
        if self._pings is not None:
            for ping in self._pings.answered(payload, trio.current_time()):
                self.latency = ping.round_trip
                if ping.on_pong is not None:
                    call_back(ping.on_pong, whose)

    def end(self) -> None:
        """Nothing can be written any more, so that nobody waits for a pong."""
        if self._pings is not None:
            for ping in self._pings.under_way:
                if ping.on_end is not None:
                    ping.on_end()
