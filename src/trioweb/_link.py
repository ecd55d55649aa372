"""The link: what carries a connection's bytes once it is open.

Of its two halves, `_incoming` and `_outgoing`, neither reads nor ends anything: here is who reads,
and how it ends.  `Link.carry` reads, or while the link is open something that reads for many
links (`Reads`).

NOTE: These rules hold between any two awaits.
- Everything that waits, waits in `wait_change`, and everything that changes what somebody
  may be waiting for calls `changed`; so there is one place to wake up, and no way to forget
  one.  A waiter looks at the state again after it woke.
- `carry` alone closes the transport, and it ends within the close timeout of the moment at
  which `state` left OPEN.

Messages as users hold them are `_connection`'s; topics write through `offer` and `finish`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from ._deflate import Agreement
from ._errors import (
    CloseCode,
    ClosedByPeer,
    ClosedLocally,
    ConnectionClosed,
    ConnectionLost,
    FrameError,
)
from ._frames import encode_close
from ._incoming import Incoming, Replies
from ._outgoing import OPEN, Spawn, State, call_back, describe
from ._policy import Limits

# Large, as each read costs a turn of Trio's; but from 128 KiB on, glibc would map and unmap
# memory for each read, however little came.
_READ_BYTES: Final = 120 * 2**10
END_OF_TRANSPORT: Final = "the peer ended the transport without a Close"


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What a connection has carried.

    `messages_sent` counts what `send` took; what topics delivered stands in each
    subscription's cursor.  `discarded` counts messages that arrived complete and reached
    nobody, because this side had closed or was only waiting for the end.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    discarded: int
    inbox_messages: int
    buffered_amount: int


class Reads(Protocol):
    """What reads for many links whose transports are the kernel's, and feeds them."""

    def watch(self, link: Link, fileno: int, /) -> None: ...

    def unwatch(self, link: Link, fileno: int, /) -> None: ...


class Link(Incoming):
    """One open WebSocket over a transport.

    Args:
        stream: the transport; the link's from here on.
        rest: bytes that came behind the opening handshake.
        is_client: which side we are (RFC 6455 section 5.1: clients mask).
        limits: see `Limits`.
        spawn: starts a task in the nursery that holds the link's tasks.
        replies: messages that are answered here (None: swallowed) and reach nobody else.
        compression: what was agreed upon, if anything was.
    """

    __slots__ = (
        "_ended",
        "_reads",
        "_scope",
        "close_code",
        "close_reason",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        rest: bytes,
        *,
        is_client: bool,
        limits: Limits,
        spawn: Spawn,
        replies: Replies | None = None,
        compression: Agreement | None = None,
    ) -> None:
        super().__init__(
            stream,
            rest,
            is_client=is_client,
            limits=limits,
            spawn=spawn,
            replies=replies,
            compression=compression,
        )
        self.close_code: int | None = None
        self.close_reason = ""
        self._reads: Reads | None = None
        self._scope: trio.CancelScope | None = None
        self._ended: type[ConnectionClosed] = ConnectionLost

    async def wait_closed(self) -> None:
        """Wait until the transport is closed, which no peer can put off for long."""
        while self.state is not State.CLOSED:
            await self.wait_change()

    def error(self) -> ConnectionClosed:
        """A fresh error that says why this link is over, or why it cannot be written to."""
        if self.close_code is None:
            return ConnectionLost(CloseCode.ABNORMAL, self.broken or "")
        return self._ended(self.close_code, self.close_reason)

    def check_writable(self) -> None:
        """Raise unless frames can still be sent.

        Raises:
            ConnectionClosed: they cannot.
        """
        if self.state is not OPEN or self.broken is not None:
            raise self.error()

    # The end.

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake, behind everything written so far.  Idempotent."""
        self._begin_close(ClosedLocally, code, reason)

    def abort(self, reason: str) -> None:
        """End the link without a closing handshake, and at once."""
        self.lost(reason)
        self._closing_scope().cancel()

    def lost(self, reason: str) -> None:
        """Nothing more comes from the transport."""
        self._end(ConnectionLost, CloseCode.ABNORMAL, reason)

    def fail(self, fault: FrameError | str) -> None:
        if isinstance(fault, FrameError):
            reason = f"{fault.reason} ({fault.limit})" if fault.limit else fault.reason
            self._begin_close(ConnectionLost, fault.code, reason, told=fault.reason)
        else:
            self.lost(fault)

    def closed_by_peer(self, code: int, reason: str) -> None:
        # The code is echoed; the reason is the peer's own, and there is no need to tell it.
        self._begin_close(ClosedByPeer, code, reason, told="")

    def _begin_close(
        self, kind: type[ConnectionClosed], code: int, reason: str, *, told: str | None = None
    ) -> None:
        """Send Close, with *told* instead of *reason* if that is given."""
        if self.state is not OPEN:
            return
        self.drop_answers()
        self.put(encode_close(code, reason if told is None else told, masked=self.is_client))
        self._end(kind, code, reason)

    # Of the steps that end a link none is left out.
    @enable_ki_protection
    def _end(self, kind: type[ConnectionClosed], code: int, reason: str) -> None:
        """Leave OPEN; the first to say why is believed."""
        if self.state is not OPEN:
            return
        self.state = State.CLOSING
        self.writable = False
        # From here on the peer's Close matters more than what is in the inbox.
        self.paused_at = None
        self._ended = kind
        self.close_code = code
        self.close_reason = reason
        self._closing_scope().deadline = trio.current_time() + self.limits.close_timeout
        if self._reads is not None and self._fileno is not None:
            self._reads.unwatch(self, self._fileno())
            self._reads = None
            self._spawn(self.carry)
        hooks = self._close_hooks
        self._close_hooks = self._drain_hooks = None
        for hook in (hooks or {}).values():
            call_back(hook)
        self.changed()

    def _closing_scope(self) -> trio.CancelScope:
        """The scope of `carry`, which gets a deadline when the state leaves OPEN."""
        if self._scope is None:
            self._scope = trio.CancelScope()
        return self._scope

    def start(self, reads: Reads | None = None) -> None:
        """Begin to read: in a task of this link's own, or by *reads* where that can.

        NOTE: With *reads* there is no task to be cancelled while the link is open, so whoever
        starts it sees to it that it is closed.
        """
        if reads is None or self._fileno is None:
            self._spawn(self.carry)
            return
        self._reads = reads
        reads.watch(self, self._fileno())

    def resume(self) -> None:
        if self._reads is not None and self._fileno is not None:
            self._reads.watch(self, self._fileno())
        super().resume()

    # It alone closes the transport.
    @enable_ki_protection
    async def carry(self) -> None:
        """Read until the connection is over, then close the transport.

        Every link has this task in the end, if something else reads for it while it is open.
        Cancelling it sends Close 1001 if the kernel takes it at once, and closes the transport.
        """
        try:
            with self._closing_scope():
                await self._read()
                await self._finish()
        except Exception as exc:
            self.lost(describe(exc))
        finally:
            # Does nothing unless carry was cancelled from outside.
            self.close(CloseCode.GOING_AWAY)
            # Shielded, so that a cancellation does not skip what follows; it does not wait.
            with trio.CancelScope(shield=True), suppress(Exception):
                await trio.aclose_forcefully(self._stream)
            self.state = State.CLOSED
            self.changed()

    async def _read(self) -> None:
        """Feed what arrives, until both Closes have passed or nothing more can come."""
        while True:
            while self.is_undecoded:
                await self._wait_room()
                # Twice: whoever was woken by what was decoded runs between the two.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                self.feed(b"")
            if self._deaf:
                return
            await self._wait_room()
            data = await self._read_some()
            if not data:
                self.lost(END_OF_TRANSPORT)
                return
            self.receive(data, trio.current_time())

    async def _read_some(self) -> bytes:
        """What has come from the transport; `b""` at its end.

        As a stream's `receive_some`; from the kernel it takes a quarter of the time of Trio's own.
        """
        if self._fileno is None:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            try:
                data = os.read(self._fileno(), _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fileno())
                has_waited = True
            else:
                if not has_waited:
                    # Shielded, since a cancellation would lose the data.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    async def _wait_room(self) -> None:
        if self.state is OPEN and self.pause_if_due():
            while self.paused_at is not None:
                await self.wait_change()

    async def _finish(self) -> None:
        """Section 7.1.1: flush, end our sending, and read to the peer's end.

        Closing at once with bytes unread would send an RST, which can overtake our Close.
        """
        await self.wait_flushed()
        if self.broken is not None:
            # Nor may an end of TLS follow what was cut.
            return
        if self._tls is not None:
            # NOTE: behind what was queued, none of which could be sealed after it.
            self._tls.close()
            self.put_tls()
            await self.wait_flushed()
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

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            messages_received=self.messages_received,
            messages_sent=self.messages_sent,
            bytes_received=self.bytes_received,
            discarded=self.discarded,
            inbox_messages=len(self.inbox),
            buffered_amount=self.buffered_amount,
        )
