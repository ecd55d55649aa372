"""Reading ahead: what comes while nothing is decoded, or behind the last that could be written.

It is held, within bounds, so that the end behind it is seen, and `Incoming` decodes it when it goes
on.  In a pause a kernel's socket is not read, but asked for its end (`_gone`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import trio

from .._wire._kernel import Descriptor
from ._contain import describe
from ._gone import END_OF_TRANSPORT, wait_gone

if TYPE_CHECKING:
    from ._link import Link

# While nothing is decoded, so much is read ahead from what is not a kernel's, to see its end.
AHEAD_BYTES: Final = 16 * 2**10
# When a link breaks off, what the transport still has is read, which is no more than a kernel
# keeps; and what may be on its way has so long to come, as has the answer to a ping.
_LAST_READ_SECONDS: Final = 0.2
_REST_BYTES: Final = 8 * 2**20


async def watch_end(link: Link, stream: trio.abc.Stream, below: Descriptor | None) -> None:
    """Notice, while nothing is decoded, that the peer has gone.

    Args:
        stream: the link's transport.
        below: what knows the kernel's descriptor below it, if there is one.

    Cancellation: nothing is lost.
    """
    incoming = link.incoming
    try:
        if sys.platform == "linux" and below is not None:
            await wait_gone(below.fileno(), link.ended_in_pause)
            link.break_off(END_OF_TRANSPORT)
            return
        # What is not the kernel's can only be read.
        while (room := AHEAD_BYTES - incoming.held().size) > 0 and incoming.held().end is None:
            if data := bytes(await stream.receive_some(room)):
                incoming.hold(data)
            else:
                incoming.hold_end(END_OF_TRANSPORT)
                link.ended_in_pause()
                # The first write after its end only makes a peer that has gone say so.
                await trio.sleep(_LAST_READ_SECONDS)
                link.pulse.ping()
    except Exception as exc:
        link.break_off(describe(exc, link))


async def hold_rest(link: Link, read_bytes: int) -> None:
    """Hold what the transport of *link* still has, as it cannot be written to any more.

    Args:
        read_bytes: how much is read at a time, at most.

    Cancellation: what was read is held.
    """
    incoming = link.incoming
    assert link.queue.broken is not None
    try:
        with trio.move_on_after(_LAST_READ_SECONDS):
            while incoming.held().end is None and incoming.held().size < _REST_BYTES:
                await trio.lowlevel.checkpoint()
                if data := await link.queue.wire.receive(read_bytes):
                    incoming.hold(data)
                else:
                    break
    except Exception as exc:
        incoming.hold_end(describe(exc, link))
    incoming.hold_end(link.queue.broken)
