"""Pings under way, and which of them a pong answers (RFC 6455 sections 5.5.2 and 5.5.3).

Pure: the time and what is random are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Ping:
    """A ping on its way: when it was sent and, once the pong is here, how long that took.

    Attributes:
        on_pong: to be called at its pong.
        on_end: to be called when none can come any more.
    """

    __slots__ = ("on_end", "on_pong", "payload", "round_trip", "sent_at")

    def __init__(
        self,
        payload: bytes,
        sent_at: float,
        on_pong: Callable[[], None] | None,
        on_end: Callable[[], None] | None,
    ) -> None:
        self.payload = payload
        self.sent_at = sent_at
        self.on_pong = on_pong
        self.on_end = on_end
        self.round_trip: float | None = None


class Pings:
    """The pings of one connection.

    Args:
        key: four random bytes.  What a pong proves must not be guessed, so each payload begins
            with them.
    """

    __slots__ = ("_key", "_sent", "_under_way")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sent = 0
        # Oldest first.  None while there are none, which is nearly always: an empty dict of which
        # something was taken keeps its table.
        self._under_way: dict[bytes, Ping] | None = None

    def __len__(self) -> int:
        return len(self._under_way or ())

    @property
    def under_way(self) -> Iterable[Ping]:
        """Those that no pong has answered yet, the oldest first."""
        return () if self._under_way is None else tuple(self._under_way.values())

    def make(
        self,
        now: float,
        on_pong: Callable[[], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Ping:
        """A ping to be sent now."""
        self._sent += 1
        payload = self._key + self._sent.to_bytes(4, "big")
        if self._under_way is None:
            self._under_way = {}
        ping = self._under_way[payload] = Ping(payload, now, on_pong, on_end)
        return ping

    def answered(self, payload: bytes, now: float) -> list[Ping]:
        """The pings that the pong with *payload* answers, with their round trips.

        A peer may answer only the latest of several, so a pong answers all pings before it, too;
        one that answers none is allowed, and ignored.
        """
        under_way = self._under_way
        if under_way is None or payload not in under_way:
            return []
        answered = []
        for each in list(under_way):
            ping = under_way.pop(each)
            ping.round_trip = now - ping.sent_at
            answered.append(ping)
            if each == payload:
                break
        if not under_way:
            self._under_way = None
        return answered

    def forget(self, ping: Ping) -> None:
        """Nobody waits for *ping* any more."""
        if self._under_way is not None:
            self._under_way.pop(ping.payload, None)
            if not self._under_way:
                self._under_way = None
