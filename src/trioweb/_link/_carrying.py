"""What a link's own task does: it reads where nothing else does, and sees the link to its end.

It decides nothing of how a link ends, which is `_link`'s; and it is all that waits for a transport.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ._contain import describe
from ._gone import wait_gone
from ._state import OPEN

if TYPE_CHECKING:
    from ._link import Link

# Large, as each read costs a turn of Trio's; but from 128 KiB on, glibc would map and unmap
# memory for each read, however little came.
_READ_BYTES: Final = 120 * 2**10
# While nothing is decoded, so much is read ahead from what is not a kernel's, to see its end.
AHEAD_BYTES: Final = 16 * 2**10
# When a link breaks off, what the transport still has is read, which is no more than a kernel
# keeps; and what may be on its way has so long to come, as has the answer to a ping.
_LAST_READ_SECONDS: Final = 0.2
_REST_BYTES: Final = 8 * 2**20
END_OF_TRANSPORT: Final = "the peer ended the transport without a Close"


async def read(link: Link) -> None:
    """Feed what arrives, until both Closes have passed or nothing more can come."""
    while not link.is_deaf:
        if link.queue.broken is not None and not link._has_let_go:
            await _let_go(link)
        await _wait_room(link)
        if link.is_undecoded:
            # Twice: whoever was woken by what was decoded runs between the two.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            link.go_on()
        elif link._has_let_go:
            return
        elif link.pause is None and link.queue.broken is None:
            data = await link._wire.receive(_READ_BYTES)
            if data:
                link.receive(data, trio.current_time())
            elif data is not None:
                link.lost(END_OF_TRANSPORT)
                return


async def _wait_room(link: Link) -> None:
    """Wait until there is room in the inbox, or something else to do first."""
    if link.state is OPEN and link.pause is None:
        link.pause_if_due()
    if link.pause is None:
        return
    with trio.CancelScope() as link.pause.scope:
        if not link._has_let_go:
            await _watch(link)
        await trio.sleep_forever()


async def _watch(link: Link) -> None:
    """Notice, while nothing is decoded, that the peer has gone."""
    try:
        if sys.platform == "linux" and (fileno := link._descriptor()) is not None:
            await wait_gone(fileno(), link.ended_in_pause)
            link.break_off(END_OF_TRANSPORT)
            return
        # What is not the kernel's can only be read.
        while (room := AHEAD_BYTES - link._held().size) > 0 and link._held().end is None:
            if data := bytes(await link._stream.receive_some(room)):
                link.hold(data)
            else:
                link.hold_end(END_OF_TRANSPORT)
                link.ended_in_pause()
                # The first write after its end only makes a peer that has gone say so.
                await trio.sleep(_LAST_READ_SECONDS)
                link.ping()
    except Exception as exc:
        link.break_off(describe(exc, link))


async def _let_go(link: Link) -> None:
    """Keep what the transport still has, and close it, as it cannot be written to."""
    assert link.queue.broken is not None
    try:
        with trio.move_on_after(_LAST_READ_SECONDS):
            while link._held().end is None and link._held().size < _REST_BYTES:
                await trio.lowlevel.checkpoint()
                if data := await link._wire.receive(_READ_BYTES):
                    link.hold(data)
                else:
                    break
    except Exception as exc:
        link.hold_end(describe(exc, link))
    link.hold_end(link.queue.broken)
    await link._close_transport()
    if link._has_only_end():
        link.end_pause()
    link.queue.call_close_hooks()
    link.changed()


async def finish(link: Link) -> None:
    """Section 7.1.1: flush, end our sending, and read to the peer's end.

    Closing at once with bytes unread would send an RST, which can overtake our Close.
    """
    await link.queue.wait_flushed()
    if link.queue.broken is not None:
        # Nor may an end of TLS follow what was cut.
        return
    if link._tls is not None:
        # NOTE: behind what was queued, none of which could be sealed after it.
        link._tls.close()
        link.queue.put_own()
        await link.queue.wait_flushed()
    if isinstance(link._stream, trio.SSLStream):
        # TLS has no half-close; its own end must be exchanged before TCP's.  That fails if
        # the peer goes on sending, but ours has been sent by then.
        transport = link._stream.transport_stream
        with suppress(trio.BrokenResourceError):
            await link._stream.unwrap()
        link._stream = transport
    if isinstance(link._stream, trio.abc.HalfCloseableStream):
        await link._stream.send_eof()
        while await link._stream.receive_some(_READ_BYTES):
            pass
