"""One WebSocket, either side, as users hold it.

A thin, documented face over a link: what waits is here, what must never be half done is in
the link.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

import trio
from trio.lowlevel import in_trio_run

from ._close_codes import CloseCode
from ._effort import A_TURN, EFFORT
from ._link import OPEN, ConnectionStatistics, Link, State
from ._logs import log
from ._policy import Message
from ._protocol._frames import check_close, encode_message
from ._protocol._http import Address, Headers, Request, brief, format_address
from ._waitable import check_thread, wrong_thread

_frames_logger = logging.getLogger("trioweb.frames")

# `send` lets others run after so many messages that the kernel took at once, unless a receiver has
# waited meanwhile: a turn of the scheduler takes as long as a small message.
_SENDS_PER_CHECKPOINT = 16
# By its own name: `receive` takes about 0.4 µs for a message that waits, and half of that is
# this look for a cancellation.
_checkpoint_if_cancelled = trio.lowlevel.checkpoint_if_cancelled


class Connection(trio.abc.AsyncResource):
    """An open WebSocket.

    A server's handler gets one; `open_connection` makes one.  Sending and receiving may go
    on in different tasks at the same time.

    Attributes:
        request: the request that opened it.
        user: what `admit` gave in `Accept(user=…)`; None without.
        subprotocol: the one agreed upon, or None.
        extensions: those agreed upon, in the server's words, as in the browser: "" or
            "permessage-deflate" with its parameters.
        opened_at: when it was opened, in Trio's time.
    """

    __slots__ = (
        "__weakref__",
        "_is_handed_over",
        "_peer",
        "_response_headers",
        "_sends",
        "extensions",
        "link",
        "opened_at",
        "request",
        "subprotocol",
        "user",
    )

    def __init__(
        self,
        link: Link,
        request: Request,
        *,
        subprotocol: str | None = None,
        extensions: str = "",
        response_headers: Headers | None = None,
        user: Any = None,
        peer: str | None = None,
    ) -> None:
        # For the layers above this one; users have no business with it.
        self.link = link
        self.opened_at = link.pulse.heard_at
        self.request = request
        self._response_headers = response_headers
        self.subprotocol = subprotocol
        self.extensions = extensions
        self.user = user
        self._sends = 0
        self._peer = peer
        # What arrives belongs to somebody else.
        self._is_handed_over = False

    def __repr__(self) -> str:
        side = "client" if self.link.is_client else "server"
        where = brief(self.request.target.partition("?")[0])  # a query may have a token in it
        return (
            f"<Connection ({side}) {where} with {format_address(self.remote)}, {self.state.name}>"
        )

    @property
    def _sink(self) -> Link:
        """Where publications of a topic go to."""
        return self.link

    @property
    def id(self) -> str:
        """A random string that this connection has alone, for logs.

        Each record of `logging` that concerns one connection has it as `record.connection`.
        """
        return self.link.id

    @property
    def peer(self) -> str:
        """The key of the peer, over its connections: `Accept(peer=…)`; without, the `id`.

        What a topic publishes with `skip=` this key is not for this peer, even if it comes back
        on another connection.
        """
        return self.id if self._peer is None else self._peer

    @property
    def headers(self) -> Headers:
        """What the peer sent to open it: on a client the headers of the server's 101, for
        instance a Set-Cookie; on a server those of the request."""
        found = self._response_headers
        return self.request.headers if found is None else found

    @property
    def remote(self) -> Address:
        """The peer's address: (host, port), or a Unix socket's path, or ""."""
        return self.request.remote

    @property
    def local(self) -> Address:
        """This side's address, as `remote`."""
        return self.request.local

    @property
    def secure(self) -> bool:
        """Whether it is over TLS, as `Request.secure`."""
        return self.request.secure

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The peer's certificate, as `Request.certificate`; on a client, the server's."""
        return self.request.certificate

    @property
    def state(self) -> State:
        """OPEN, CLOSING from the first Close on, CLOSED once the transport is.

        One whose peer has gone is OPEN, though nothing can be sent, until there was room in the
        inbox for all that had arrived.
        """
        return self.link.state

    @property
    def buffered_amount(self) -> int:
        """Bytes that wait here because the peer's transport does not take them."""
        return self.link.queue.buffered_amount

    @property
    def latency(self) -> float | None:
        """Seconds that the last answered ping took; None before the first."""
        return self.link.pulse.latency

    @property
    def close_code(self) -> int | None:
        """The code of the first Close, ours or the peer's: 1005 if that had none, 1006 if
        the connection was lost without one; None while it is open."""
        return self.link.close_code

    @property
    def close_reason(self) -> str:
        """What was said with `close_code`."""
        return self.link.close_reason

    def statistics(self) -> ConnectionStatistics:
        """Counts of what this connection has carried."""
        return self.link.statistics()

    def trace(self, on: bool = True) -> None:
        """Have each frame of this connection logged from now on, or if not *on* no more: at
        DEBUG, under `trioweb.frames`, with the first 60 bytes of what it carries.

        Connections that are not traced pay nothing for it.  One that is gets slower: a record for
        each frame, and no more than 16 frames at a time, so that it holds nobody else up; of what a
        topic writes at once the rest is summed up in one.

        Raises:
            RuntimeError: called from a thread that does not run Trio; nothing was done.
        """
        check_thread()
        self.link.trace(self._log_frame if on else None)

    def _log_frame(self, line: str) -> None:
        who = format_address(self.remote)
        log(_frames_logger, logging.DEBUG, self, "%s %s", who, line, address=who)

    async def send(self, message: Message | bytearray | memoryview) -> None:
        """Send a message: text for str, binary for bytes.

        Waits while more than `Limits.send_bytes` are queued for the peer, or what a topic has
        for it is next; of several tasks that wait, the first is the first to send.  Returning
        means that the message will be written as long as the transport works, a task's messages
        in the order of its calls; whether the peer has received it, only the peer can tell.

        Args:
            message: mutable buffers are copied before this returns.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing was sent.
            TypeError, ValueError: *message* cannot be sent.

        Cancellation: a cancelled `send` has sent nothing; one that returns has sent it all.
        Checkpoint: a cancellation point always; lets others run whenever it waits, and
        after 16 messages for which nobody has.
        Concurrency: any number of tasks may send.
        Source: RFC 6455 section 6.1.
        """
        link = self.link
        frame = encode_message(message, link.form)
        self._sends += 1
        if self._sends % _SENDS_PER_CHECKPOINT:
            await _checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        # NOTE: no await between this look and the writing, so that cancelled means not sent.
        queue = link.queue
        if queue.writable or queue.takes_message:
            queue.write(frame)
        else:
            link.check_writable()
            if not await queue.wait_turn(frame):
                raise link.error()

    def send_nowait(self, message: Message | bytearray | memoryview) -> None:
        """Send a message if that needs no waiting.  See `send`.

        Raises:
            trio.WouldBlock: `send` would wait; nothing was sent.
            ConnectionClosed, TypeError, ValueError: as `send`.
            RuntimeError: called from a thread that does not run Trio; nothing was sent.

        Checkpoint: never.
        """
        if not in_trio_run():
            raise wrong_thread()
        link = self.link
        frame = encode_message(message, link.form)
        link.check_writable()
        if not link.queue.takes_message:
            raise trio.WouldBlock
        link.queue.write(frame)

    def receive(self) -> Coroutine[Any, Any, Message]:
        """Wait for the next message: str for text, bytes for binary.

        Raises:
            ConnectionClosed: the connection is over, and all that had arrived was received.
            RuntimeError: this is the connection that a client's `on_open` was given, which is
                through; what arrives belongs to the client.

        Cancellation: a cancelled `receive` has taken nothing.  Checkpoint: a cancellation
        point always; others run whenever it waits, which it does at least once for each
        120 KiB that the peer sent, and before it takes more when about a millisecond went
        into publishing to topics.
        Concurrency: several tasks may receive; each message goes to one, and wakes no other.
        """
        return self._next(None)

    async def receive_many(self) -> list[Message]:
        """Wait for the next message, and take with it all that has arrived.

        Raises, Cancellation, Checkpoint, Concurrency: as `receive`.
        """
        inbox = self.link.inbox
        if inbox.messages and EFFORT.spent < A_TURN and not self._is_handed_over:
            await _checkpoint_if_cancelled()
        else:
            await self._wait(None)
        messages = list(inbox.messages)
        inbox.messages.clear()
        if inbox.pause is not None:
            inbox.taken()
        return messages

    def __aiter__(self) -> Connection:
        """Iterate over the messages until the connection is over, however that came about;
        `close_code` and `close_reason` tell."""
        return self

    async def _next(self, at_end: type[Exception] | None = StopAsyncIteration) -> Message:
        inbox = self.link.inbox
        if inbox.messages and EFFORT.spent < A_TURN and not self._is_handed_over:
            await _checkpoint_if_cancelled()
        else:
            await self._wait(at_end)
        message = inbox.messages.popleft()
        if inbox.pause is not None:
            inbox.taken()
        return message

    # The same, and not what calls it: on a fast feed a call is a tenth of what a message costs.
    __anext__ = _next

    async def _wait(self, at_end: type[Exception] | None) -> None:
        """Let others run if that is due, and return with something to take, or raise."""
        link = self.link
        if EFFORT.spent >= A_TURN and link.inbox.messages:
            await trio.lowlevel.checkpoint()
        EFFORT.spent = 0
        # NOTE: whoever waited looks again, as another receiver may have been faster.
        while True:
            if self._is_handed_over:
                await trio.lowlevel.checkpoint()
                raise RuntimeError(
                    "on_open is through, and its connection is the client's: "
                    "receive from the client"
                )
            if link.inbox.messages:
                return
            if link.state is not OPEN:
                await trio.lowlevel.checkpoint()
                raise at_end or link.error()
            await link.inbox.wait_taking()
            # Others have run since the last of them.
            self._sends = 0

    def _hand_over(self) -> None:
        """From now on, what arrives is for whoever holds the link."""
        self._is_handed_over = True
        self.link.inbox.wake_all()

    async def ping(self) -> float:
        """Send a ping and wait for its pong.

        A pong also says that the peer's endpoint (not yet its application) has everything
        that was sent before the ping.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosed: the connection was over before the pong came.

        Cancellation: the ping may have been sent.  Checkpoint: always.
        Source: RFC 6455 section 5.5.2.
        """
        link = self.link
        await trio.lowlevel.checkpoint_if_cancelled()
        link.check_writable()
        is_told = trio.Event()
        ping = link.pulse.ping(on_pong=is_told.set, on_end=is_told.set)
        try:
            await is_told.wait()
        finally:
            link.pulse.forget(ping)
        if ping.round_trip is None:
            raise link.error()
        return ping.round_trip

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection: the closing handshake, then the transport.  Idempotent.

        What was sent before is written first.  What arrived before can still be received;
        what arrives later is discarded and counted.  If the peer does not answer within
        `Limits.close_timeout`, the transport is closed without it.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 section 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: *code* or *reason* cannot be sent; nothing was.

        Cancellation: closes all the same: Close has been sent if the kernel took it, and
        the transport is closed at once.  Checkpoint: always.
        Source: RFC 6455 section 7.1.
        """
        check_close(code, reason)
        self.link.close(code, reason)
        try:
            await trio.lowlevel.checkpoint()
            await self.link.wait_closed()
        except trio.Cancelled:
            self.link.abort("closing was cancelled")
            raise

    async def wait_closed(self) -> None:
        """Wait until the connection is over, for handlers that only push.

        Messages that arrive meanwhile are read, discarded and counted
        (`statistics().discarded`), so that the peer's Close is seen behind them.  On the
        connection of a client's `on_open` this only waits, once that is through.

        Cancellation: nothing but the discarded messages is lost.  Checkpoint: always.
        """
        link = self.link
        await trio.lowlevel.checkpoint()
        while link.state is not State.CLOSED:
            if link.inbox.messages and not self._is_handed_over:
                link.incoming.discarded += link.inbox.drop()
            await link.wait_change()
