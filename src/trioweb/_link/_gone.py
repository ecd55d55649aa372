"""Noticing that the peer of a kernel socket has gone, without reading anything.

Bytes that wait unread stand before the end that a read would tell of, so while a connection is
not read its socket is asked in another way.  Most of it Linux alone can be asked.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

import trio

# Of Linux's struct tcp_info: tcpi_unacked (segments), and tcpi_last_ack_recv (milliseconds ago).
_TCP_INFO: Final = struct.Struct("@24xI28xI")
_TCP_INFO_BYTES: Final = 60

# What is said of a peer that has gone.
END_OF_TRANSPORT: Final = "the peer ended the transport without a Close"


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


def seconds_unconfirmed(stream: trio.abc.Stream) -> float:
    """For how long the peer's machine has confirmed nothing of what is under way to it, whatever is
    on top of its socket; 0 if nothing is, or where that is not known."""
    transport = getattr(stream, "transport_stream", stream)
    if sys.platform != "linux" or not isinstance(transport, trio.SocketStream):
        return 0
    try:
        info = transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:  # no TCP
        return 0
    assert isinstance(info, bytes)
    unconfirmed, milliseconds = _TCP_INFO.unpack_from(info)
    return milliseconds / 1000 if unconfirmed else 0


async def wait_gone(fileno: int, ended: Callable[[], object]) -> None:
    """Wait until the peer has gone altogether.

    Args:
        fileno: the socket's, which stays open meanwhile.
        ended: called when the peer has said that it sends nothing more, which is no end if it
            still reads.

    Cancellation: nothing is lost.  Checkpoint: always.
    """
    try:
        epoll = select.epoll()
    except OSError:
        # Where there is no descriptor to spare, it is left to the heartbeat.
        await trio.sleep_forever()
    with epoll:
        epoll.register(fileno, select.EPOLLRDHUP)
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            match has_gone(fileno):
                case True:
                    return
                case None:
                    epoll.modify(fileno, 0)
                    ended()
