"""The observer: what a program is told of servers, hubs and clients while they work.

Whoever tells calls `tell`, so that no observer can harm what it observes, and looks first whether
there is one: without, telling costs a comparison.  Single deliveries and messages are never told;
they are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

from ._connection import Connection
from ._protocol._http import Address

_logger = logging.getLogger("trioweb")

_Ts = TypeVarTuple("_Ts")


class Observer:
    """Hears of what happens to a server, a hub or a client; does nothing.

    Override what you want to hear of, and pass an instance as `observer=` to `serve`, `open_hub`
    or `open_client`; one may be passed to several.  For traces and for metrics of your own:
    `trioweb.metrics` needs none.

    Its methods are called in the tasks that do the work, so they have to be quick.  An Exception
    that one raises is logged, and changes nothing else.

    Checkpoint: never; they are not async.
    """

    def on_open(self, connection: Connection) -> None:
        """A connection is open, and nothing has used it yet: no handler, no `on_open`.

        Of servers and clients.
        """

    def on_end(self, connection: Connection) -> None:
        """A connection is over; `close_code` and `close_reason` say why, and its handler has
        ended, too.  Called once for each that `on_open` was called for.

        Of servers and clients.
        """

    def on_refusal(self, remote: Address, status: int, reason: str) -> None:
        """A peer got no connection.

        Of servers.

        Args:
            remote: its address.
            status: the HTTP status that it got; 0 if it went away before.
            reason: as in the log; something of it may be the peer's own words.
        """

    def on_stall(self, connection: Connection, seconds: float) -> None:
        """Nothing was received for so long from a connection whose inbox is full, so that it is
        not read from.  Called once for each time.

        Of servers and clients, with a heartbeat.
        """

    def on_failure(self, error: Exception, attempts: int) -> None:
        """An attempt to connect has failed.

        Of clients.

        Args:
            error: as `Client.last_error`.
            attempts: how many there were, with this one, since the last connection that lasted.
        """

    def on_pass(self, topic: str, offsets: range, seconds: float) -> None:
        """What was published to a topic has been written to every subscriber with room for it.

        Of hubs.

        Args:
            topic: its name.
            offsets: of the publications that are new since the last pass; empty if this one only
                looked whether something has come of age.
            seconds: for which it has held the loop, in all its turns.
        """

    def on_eviction(self, connection: Connection, topic: str) -> None:
        """A subscriber of a topic was too slow, and its connection is being closed for that.

        Of hubs.
        """


def tell(call: Callable[[Unpack[_Ts]], None], *args: *_Ts) -> None:
    """Call a method of an observer; an error that it raises is logged, and ends here."""
    try:
        call(*args)
    except Exception:
        name = getattr(call, "__qualname__", call)
        _logger.exception("error in an observer: %s", name)
