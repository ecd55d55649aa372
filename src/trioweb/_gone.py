"""Noticing that the peer of a kernel socket has gone, without reading anything.

Bytes that wait unread stand before the end that a read would tell of, so while a connection is
not read its socket is asked in another way.  Linux alone can be asked so.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio


def has_arrived(fileno: int) -> bool:
    """Whether something is there to be read, the end included."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


def has_gone(fileno: int) -> bool | None:
    """Whether the peer has gone altogether; None if it has said no more than that it sends
    nothing more, and False if not even that."""
    poll = select.poll()
    poll.register(fileno, select.POLLRDHUP)
    events = poll.poll(0)
    if not events:
        return False
    # These are reported whatever was asked for: both directions are over, by an RST, say.
    return True if events[0][1] & (select.POLLHUP | select.POLLERR) else None


async def wait_gone(fileno: int, ended: Callable[[], object]) -> None:
    """Wait until the peer has gone altogether.

    Args:
        fileno: the socket's, which stays open meanwhile.
        ended: called when the peer has said that it sends nothing more, which is no end if it
            still reads.

    Cancellation: nothing is lost.  Checkpoint: always.
    """
    with select.epoll() as epoll:
        epoll.register(fileno, select.EPOLLRDHUP)
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            match has_gone(fileno):
                case True:
                    return
                case None:
                    epoll.modify(fileno, 0)
                    ended()
