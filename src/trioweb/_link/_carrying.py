"""Who reads from a transport, when, and until when; and how it is closed.

`Carrier.run` reads, or while the link is open something that reads for many links (`Reads`).  Here,
and in `_ahead` while nothing is decoded, is all that waits for a transport.  It decides nothing of
how a link ends, which is `_link`'s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._close_codes import CloseCode
from .._protocol._closing import Phase
from .._wire._kernel import Descriptor, kernel_socket
from ._ahead import AHEAD_BYTES, hold_rest, watch_end
from ._contain import describe
from ._gone import END_OF_TRANSPORT, has_arrived, seconds_unconfirmed
from ._inbox import Pause
from ._owner import Spawn
from ._state import IDLE, OPEN

if TYPE_CHECKING:
    from ._link import Link

# Large, as each read costs a turn of Trio's; but from 128 KiB on, glibc would map and unmap
# memory for each read, however little came.
_READ_BYTES: Final = 120 * 2**10
# Once both Closes are said, a server waits for the peer to end TCP, too, but not for long: a peer
# that keeps it open would hold up a drain for all of its grace.  Section 7.1.1 lets a server close
# first, and at once.  The second is for what the peer sent before it had our Close: unread, it
# would make the kernel answer with an RST, which can overtake that.  A client waits for the server.
_AGREED_SECONDS: Final = 1.0


class Reads(Protocol):
    """What reads for links whose transports are the kernel's, and feeds them."""

    def watch(self, link: Link, fileno: int, /) -> None: ...

    def unwatch(self, link: Link, fileno: int, /) -> None: ...


class Carrier:
    """Reads for *link*, or sees to it that something does, and closes its transport.

    Args:
        link: what is read goes to its `incoming`; until `disown`.
        stream: the transport.
        socket: what knows its descriptor, where it is a kernel's, whatever is on top.
        spawn: starts a task.

    Attributes:
        on_let_go: called once, when the transport is closed, though what had arrived may still be
            received.
    """

    __slots__ = (
        "_has_let_go",
        "_link",
        "_reads",
        "_scope",
        "_socket",
        "_spawn",
        "_stream",
        "on_let_go",
    )

    def __init__(
        self,
        link: Link,
        stream: trio.abc.Stream,
        socket: Descriptor | None,
        spawn: Spawn,
    ) -> None:
        self._link = link
        self._stream = stream
        self._socket = socket
        self._spawn = spawn
        self._reads: Reads | None = None
        self._scope: trio.CancelScope | None = None
        self._has_let_go = False
        self.on_let_go: Callable[[Link], object] | None = None

    # What can be asked of a transport.

    def has_unread(self) -> bool:
        """Whether something has come that nobody has looked at yet, as far as can be asked."""
        below = self._descriptor()
        return self._link.incoming.is_undecoded or bool(below and has_arrived(below.fileno()))

    @property
    def is_blind(self) -> bool:
        """Whether nothing tells, in a pause, that the peer has gone, unless it is written to."""
        return self._descriptor() is not None or self._link.incoming.held_bytes >= AHEAD_BYTES

    def is_unconfirmed_for(self, seconds: float) -> bool:
        """Whether the peer's machine has confirmed nothing for so long, though there is something
        to confirm; as far as can be asked."""
        return seconds_unconfirmed(self._stream) >= seconds

    def _descriptor(self) -> Descriptor | None:
        """What knows the kernel's descriptor below any TLS, if there is one."""
        stream = getattr(self._stream, "transport_stream", self._stream)
        return self._socket or kernel_socket(stream)

    # Who reads, and when.

    def start(self, reads: Reads | None = None) -> None:
        """Begin to read: in a task of its own, or by *reads* where that can.

        NOTE: With *reads* there is no task to be cancelled while the link is open, so whoever
        starts it sees to it that it is closed.
        """
        if reads is None or self._socket is None:
            self._spawn(self.run)
            return
        self._reads = reads
        reads.watch(self._link, self._socket.fileno())

    def read_alone(self) -> None:
        """Have `run` read from here on, if something else does."""
        if self._reads is not None and self._socket is not None:
            self._reads.unwatch(self._link, self._socket.fileno())
            self._reads = None
            self._spawn(self.run)

    def take(self, fileno: int, now: float) -> bool:
        """Feed what a kernel's socket has, for what reads for this link; *now* is Trio's time.
        Return whether that was something."""
        link = self._link
        try:
            data = os.read(fileno, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as exc:
            link.lost(describe(exc, link))
            return False
        if not data:
            link.lost(END_OF_TRANSPORT)
            return False
        link.incoming.receive(data, now)
        return True

    def pause_if_due(self) -> bool:
        """Stop reading while the inbox is full or the peer too fast: TCP slows it down."""
        link = self._link
        inbox = link.inbox
        is_too_fast = inbox.is_too_fast
        if not (is_too_fast or inbox.is_full):
            return False
        if not link.incoming.may_wait:
            return False
        inbox.pause = Pause(self._resume)
        if is_too_fast:
            self._spawn(partial(_slow_down, link))
        return True

    def _resume(self) -> None:
        """Read on after a pause."""
        link = self._link
        if self._reads is not None and self._socket is not None:
            self._reads.watch(link, self._socket.fileno())
        # At once, and not when `run` does: until then every message taken asks again.
        link.inbox.end_pause()
        # The peer could not be heard, which is no fault of its own.
        link.pulse.heard()
        link.changed()

    # The end.

    def end_by(self, deadline: float) -> None:
        """Close the transport by then, whatever is waited for."""
        self._closing_scope().deadline = deadline
        self.read_alone()

    def cancel(self) -> None:
        """Close the transport, and wait for nothing."""
        self._closing_scope().cancel()

    def _closing_scope(self) -> trio.CancelScope:
        """The scope of `run`, which gets a deadline when the link is no longer open."""
        if self._scope is None:
            self._scope = trio.CancelScope()
        return self._scope

    def is_over(self) -> bool:
        """Whether nothing is left to wait for, where the peer's Close has come and ours is said:
        ours is with the kernel, and the peer's was all that had come."""
        link = self._link
        if self._reads is None or self._socket is None or link.incoming.tls is not None:
            return False
        # A client waits for the server to close the transport (section 7.1.1).
        if link.is_client or link.queue.state is not IDLE:
            return False
        try:
            return not os.read(self._socket.fileno(), 1)
        except OSError:  # nothing has come, or the peer has gone
            return True

    def let_go_at_once(self) -> None:
        """Close the transport without the task that it otherwise takes (section 7.1.1 has a server
        close it first); nothing that may still come was to count."""
        assert self._reads is not None and self._socket is not None
        self._reads.unwatch(self._link, self._socket.fileno())
        self._reads = None
        self._close_socket()

    def on_broken(self) -> None:
        """Nothing can be written any more."""
        if self._has_let_go:
            return
        self.read_alone()
        # Whatever `run` waits for, it has something else to do.
        pause = self._link.inbox.pause
        if pause is not None and pause.scope is not None:
            pause.scope.cancel()
        self._link.queue.wire.interrupt()

    def disown(self) -> None:
        """Nobody has this any more.  The link has, so that both would stay until the garbage
        collector comes."""
        del self._link

    # Its task.  It closes the transport.

    @enable_ki_protection
    async def run(self) -> None:
        """Read until the connection is over, then close the transport.

        A link for which something else reads has this task in the end, unless it ends at once.
        Cancelling it sends Close 1001 if the kernel takes it at once, and closes the transport.
        """
        link = self._link
        try:
            with self._closing_scope():
                await self._read(link)
                await self._finish(link)
        except Exception as exc:
            link.lost(describe(exc, link))
        finally:
            # Does nothing unless this was cancelled from outside.
            link.close(CloseCode.GOING_AWAY)
            await self._close_transport()
            link.be_closed()
            link.changed()

    async def _read(self, link: Link) -> None:
        """Feed what arrives, until both Closes have passed or nothing more can come."""
        incoming = link.incoming
        while not incoming.is_deaf:
            if link.queue.broken is not None and not self._has_let_go:
                await self._let_go(link)
            await self._wait_room(link)
            if incoming.is_undecoded:
                # Twice: whoever was woken by what was decoded runs between the two.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                incoming.go_on()
            elif self._has_let_go:
                return
            elif link.inbox.pause is None and link.queue.broken is None:
                data = await link.queue.wire.receive(_READ_BYTES)
                if data:
                    incoming.receive(data, trio.current_time())
                elif data is not None:
                    link.lost(END_OF_TRANSPORT)
                    return

    async def _wait_room(self, link: Link) -> None:
        """Wait until there is room in the inbox, or something else to do first."""
        if link.state is OPEN and link.inbox.pause is None:
            self.pause_if_due()
        if link.inbox.pause is None:
            return
        with trio.CancelScope() as link.inbox.pause.scope:
            if not self._has_let_go:
                await watch_end(link, self._stream, self._descriptor())
            await trio.sleep_forever()

    async def _let_go(self, link: Link) -> None:
        """Keep what the transport still has, and close it, as it cannot be written to."""
        await hold_rest(link, _READ_BYTES)
        await self._close_transport()
        if link.incoming.has_only_end():
            link.inbox.end_pause()
        link.queue.call_close_hooks()
        link.changed()

    async def _finish(self, link: Link) -> None:
        """Section 7.1.1: flush, end our sending, and read to the peer's end.

        Closing at once with bytes unread would send an RST, which can overtake our Close.
        """
        queue, tls = link.queue, link.incoming.tls
        await queue.wait_flushed()
        if queue.broken is not None:
            # Nor may an end of TLS follow what was cut.
            return
        if tls is not None:
            # NOTE: behind what was queued, none of which could be sealed after it.
            tls.close()
            queue.put_own()
            await queue.wait_flushed()
        is_brief = link.incoming.phase is Phase.AGREED and not link.is_client
        with trio.move_on_after(_AGREED_SECONDS if is_brief else math.inf):
            await self._end_transport()

    async def _end_transport(self) -> None:
        """End what is sent, and read to the peer's end."""
        if isinstance(self._stream, trio.SSLStream):
            # TLS has no half-close; its own end must be exchanged before TCP's.  That fails if
            # the peer goes on sending, but ours has been sent by then.
            transport = self._stream.transport_stream
            with suppress(trio.BrokenResourceError):
                await self._stream.unwrap()
            self._stream = transport
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ_BYTES):
                pass

    async def _close_transport(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            self._close_socket()
            return
        # Before others run: who sees the link break off meanwhile leaves it alone.
        self._has_let_go = True
        # Shielded, so that a cancellation does not skip what follows; it does not wait.
        with trio.CancelScope(shield=True), suppress(Exception):
            await trio.aclose_forcefully(self._stream)
        self._tell_let_go()

    def _close_socket(self) -> None:
        """Close a socket without letting others run, as the `aclose` of its stream does, with two
        scopes around it: that takes as long as the rest of the closing."""
        assert isinstance(self._stream, trio.SocketStream)
        self._has_let_go = True
        with suppress(OSError):
            self._stream.socket.close()
        self._tell_let_go()

    def _tell_let_go(self) -> None:
        on_let_go, self.on_let_go = self.on_let_go, None
        if on_let_go is not None:
            on_let_go(self._link)


async def _slow_down(link: Link) -> None:
    """Go on reading as soon as the peer is no longer too fast."""
    with trio.move_on_at(link.inbox.used_until):
        while link.state is OPEN:
            await link.wait_change()
    link.inbox.taken()
