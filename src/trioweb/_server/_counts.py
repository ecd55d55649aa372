"""What a server counts, and how that is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .._dataclass import dataclass
from .._histogram import SECONDS, Histogram
from .._link import Link
from .._topics import HubStatistics

# Peers choose from 2,000 codes of their own: were all told, they would decide how long the loop
# is held by telling, and how many series a monitoring system keeps.
_MAX_CODES: Final = 100
# RFC 6455 section 7.4.2.
_FIRST_OF_APPLICATIONS: Final = 3000


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has seen.

    Attributes:
        connections: open now.
        opening: streams accepted that are not connections yet, or never will be.
        opened: connections so far.
        refused: requests refused so far, by HTTP status; 0 counts the ones that went away
            before there was anybody to answer, but for those that sent nothing at all, and those
            for whose TLS handshake there was no room.
        answered: plain HTTP requests answered so far, by status.
        closed: connections ended so far, by close code.  Of the codes from 3000 on, which
            applications choose, some 100 are told apart; 0 counts the further ones.
        handler_errors: calls of the handler, `admit` and `http` that ended with an error of
            their own.
        hub: the statistics of the hub that was passed to `serve`, if one was.
    """

    connections: int
    opening: int
    opened: int
    refused: Mapping[int, int]
    answered: Mapping[int, int]
    closed: Mapping[int, int]
    handler_errors: int
    hub: HubStatistics | None


@dataclass(slots=True)
class Traffic:
    """What connections have carried together; see `ConnectionStatistics`."""

    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    discarded: int = 0

    def add(self, link: Link) -> None:
        """Add what *link* has carried."""
        self.messages_received += link.incoming.messages_received
        self.messages_sent += link.queue.messages_sent
        self.bytes_received += link.incoming.bytes_received
        self.bytes_sent += link.queue.bytes_sent
        self.discarded += link.incoming.discarded

    def copy(self) -> Traffic:
        return replace(self)


class Counts:
    """What has happened so far; see `ServerStatistics`.

    Attributes:
        closed_kinds: ends by close code, but those of applications summed.
        ended: what connections have carried that are over, and so are their handlers.
        handshakes: the seconds from accepting a stream to its connection.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.refused: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.closed: Counter[int] = Counter()
        self.closed_kinds: Counter[str] = Counter()
        self.handler_errors = 0
        self.ended = Traffic()
        self.handshakes = Histogram(SECONDS)

    def count_close(self, code: int) -> None:
        """A connection has ended with *code*."""
        is_application = code >= _FIRST_OF_APPLICATIONS
        self.closed_kinds[f"{code // 1000}xxx" if is_application else str(code)] += 1
        is_new = code not in self.closed
        if is_new and code >= _FIRST_OF_APPLICATIONS and len(self.closed) >= _MAX_CODES:
            code = 0
        self.closed[code] += 1

    def told(
        self, *, connections: int, opening: int, hub: HubStatistics | None
    ) -> ServerStatistics:
        """Them, and with them what there is now."""
        return ServerStatistics(
            connections=connections,
            opening=opening,
            opened=self.opened,
            refused=dict(self.refused),
            answered=dict(self.answered),
            closed=dict(self.closed),
            handler_errors=self.handler_errors,
            hub=hub,
        )
