"""The resilient client, as users hold it: what is accepted, received, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from typing import Any, Final, Literal, overload

import trio
from trio.lowlevel import in_trio_run

from .._close_codes import CloseCode
from .._dataclass import dataclass
from .._link import State
from .._policy import Message
from .._protocol._frames import check_close, encode_payload
from .._waitable import wrong_thread
from ._events import Event
from ._life import Life
from ._streams import Full, Messages
from ._worth import describe

# `send` lets others run after so many messages that needed no waiting.
_SENDS_PER_CHECKPOINT: Final = 16


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client has been through.

    Attributes:
        attempts, sessions: to connect, and those that led to a connection.
        accepted: messages that `send` took.
        unsent: of those, how many are in the outbox, or were at the end.
        resent: how many were written again on a later connection.
        dropped: how many left the outbox unsent to make room (`full="drop"`).
        undelivered: how many left it because they were sent too often without being
            confirmed (`Outbox.max_resends`).
        received: messages received.
        discarded: of those, how many reached nobody: there was no stream.
    """

    attempts: int
    sessions: int
    accepted: int
    unsent: int
    resent: int
    dropped: int
    undelivered: int
    received: int
    discarded: int


class Client:
    """A WebSocket client that outlives its connections.  `open_client` makes one."""

    __slots__ = ("__weakref__", "_life", "_own", "_sends")

    def __init__(self, life: Life) -> None:
        self._life = life
        # That of `receive` and iterating.
        self._own: Messages[Message] | None = None
        self._sends = 0

    @property
    def state(self) -> State:
        """CONNECTING while there is no connection but one is tried for, OPEN, CLOSING, and
        CLOSED when there will be no other."""
        return self._life.state

    @property
    def buffered_amount(self) -> int:
        """Bytes accepted that are not written (with `confirm`: not confirmed) yet."""
        return self._life.outbox.size

    @property
    def latency(self) -> float | None:
        """Seconds that the last answered ping of this session took; None without one."""
        link = self._life.signal.link
        return None if link is None else link.pulse.latency

    def statistics(self) -> ClientStatistics:
        """What the client has been through, up to now."""
        outbox = self._life.outbox
        return ClientStatistics(
            attempts=self._life.supervisor.attempts,
            sessions=self._life.supervisor.sessions,
            accepted=outbox.accepted,
            unsent=len(outbox),
            resent=outbox.resent,
            dropped=outbox.dropped,
            undelivered=outbox.undelivered,
            received=self._life.reception.received,
            discarded=self._life.reception.discarded,
        )

    @property
    def last_error(self) -> Exception | None:
        """What ended the last attempt to connect, or the session that it led to; None before.

        So it says why `trio.fail_after` around `wait_open` had to.
        """
        return self._life.supervisor.last_error

    async def wait_open(self) -> None:
        """Wait until there is a connection, and `on_open` is through with it.

        Cancelled, it says in a note, which a traceback shows, why there is none yet.

        Raises:
            GaveUp, ClosedLocally: there will be none.
            NotReceiving: there will be none until more of what has arrived is received, and
                nothing was for `Heartbeat.timeout`.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        try:
            await self._life.room.wait_open()
        except trio.Cancelled as exc:
            if self.last_error is not None:
                exc.add_note(f"there was no connection yet: {describe(self.last_error)}")
            raise

    async def reconnect(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End this session and begin the next one now; also end the wait for the next attempt.

        For a feed with a gap, say, that wants a fresh connection.  Neither `Retry` nor a
        Retry-After is asked, and the server is given no more than a second for its Close.
        Returns when the session is over; `wait_open` waits for the next.  An attempt that is
        under way goes on.

        Args:
            code, reason: told to the server; see `Connection.aclose`.

        Raises:
            GaveUp, ClosedLocally: the client is over, or being closed.
            ValueError: *code* or *reason* cannot be sent; nothing was done.

        Cancellation: the session ends all the same.  Checkpoint: always.
        """
        check_close(code, reason)
        self._life.check_open()
        await self._life.reconnect(code, reason)

    # Sending.

    async def send(self, message: Message | bytearray | memoryview) -> None:
        """Give a message to the outbox; it is written in order, on this connection or a later.

        If the outbox is full, this waits, raises or drops, as `Outbox.full` says.

        With `Outbox(confirm=True)` every message accepted is sent, again on each new
        connection if need be, until a pong proves that the server's *endpoint* has received
        it: at least once, and possibly more than once.  It does not prove that the server's
        application has processed it: what a server had read ahead when it died is lost, and
        an intermediary that answers pings by itself confirms only itself.

        A server is given one message at first, and twice as many with each confirmation that
        comes within a second, up to 64.  So one that handles slowly gets nothing twice, and a
        message of which the server dies is sent again alone, `Outbox.max_resends` times at most.

        A server of which no confirmation comes for `Heartbeat.timeout` (of the default one, with
        `heartbeat=None`) is left, and what it did not confirm goes to the next connection.  Each
        time in a row doubles the timeout, up to 8 times, since the server may only be slow; the
        first ping that is answered within the timeout itself ends that.  A server from which
        nothing at all comes is left as `Heartbeat` says, all the same.

        Without, a message leaves the outbox once the kernel has taken it: at most once, and
        what the kernel had not delivered when the connection died is lost.

        Raises:
            TypeError, ValueError: it cannot be sent, or is larger than the outbox.
            OutboxFull: with `full="raise"`.
            NotReceiving: this waits for the server, whose answers (or the next connection to
                it) wait until messages are received, and for `Heartbeat.timeout` none was.
            GaveUp, ClosedLocally: the client is over; the message was not accepted.

        Cancellation: a cancelled `send` has accepted nothing; one that returns has, and no
        cancellation takes that back.  Checkpoint: a cancellation point always; lets others
        run whenever it waits and every 16 messages.
        Concurrency: any number of tasks may send.  Who waits for room has its turn in the order
        of the calls, whatever the sizes, and what one message costs does not grow with their
        number.
        """
        entry = encode_payload(message)
        self._life.outbox.check_size(len(entry[1]))
        self._sends += 1
        if self._sends % _SENDS_PER_CHECKPOINT:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        self._life.check_open()
        # NOTE: no await behind the one in which it is accepted, so that cancelled means not
        # accepted.
        if not self._life.sender.accept(entry):
            await self._life.room.send(entry)

    def send_nowait(self, message: Message | bytearray | memoryview) -> None:
        """Give a message to the outbox if that needs no waiting.  See `send`.

        Raises:
            trio.WouldBlock: the outbox is full, and `full` is "wait".
            TypeError, ValueError, OutboxFull, GaveUp, ClosedLocally: as `send`.
            RuntimeError: called from a thread that does not run Trio; nothing was accepted.

        Checkpoint: never.
        """
        if not in_trio_run():
            raise wrong_thread()
        entry = encode_payload(message)
        self._life.outbox.check_size(len(entry[1]))
        self._life.check_open()
        if not self._life.sender.accept(entry):
            raise trio.WouldBlock

    async def flush(self) -> None:
        """Wait until everything accepted so far is written or, with `confirm`, confirmed, or has
        been given up (`Outbox.max_resends`).

        Written means taken by the kernel; for what that is worth, see `send`.

        Raises:
            GaveUp, ClosedLocally: the client ended first.
            NotReceiving: as `send`.

        Cancellation: nothing is lost.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        await self._life.room.flush()

    # Receiving.

    @overload
    def messages(
        self, *, events: Literal[False] = False, max_messages: int = 256, full: Full = "wait"
    ) -> Messages[Message]: ...

    @overload
    def messages(
        self, *, events: bool, max_messages: int = 256, full: Full = "wait"
    ) -> Messages[Message | Event]: ...

    def messages(
        self, *, events: bool = False, max_messages: int = 256, full: Full = "wait"
    ) -> Messages[Any]:
        """A stream of its own of all that is received from now on: `with client.messages() as …`.

        The first one (`receive` and iterating over the client make one, too) begins with
        what had arrived before.

        Args:
            events: also give Opened, Lost, Waiting and Undelivered, in their place among the
                messages: a program that follows a feed must know where an old session ends.
            max_messages: how many may wait in it.
            full: what happens then: "wait" (the client stops reading, for all its streams),
                "drop" the oldest, or "raise" Lagged as well.  Events are not dropped, except
                where a whole session was: Opened and Lost go together.

        A stream in a `with` block may hold up the others for as long as the block lasts.  Outside
        of one it may have been forgotten: it goes when nobody holds it any more; and if it is
        full for `Heartbeat.timeout`, while there are others, it goes on as with "raise", and the
        log names it.

        Raises:
            ValueError: a bad argument, or this client was opened with `receive=False`.
            RuntimeError: called from a thread that does not run Trio.
        """
        # The line of the program that makes it.
        code = sys._getframe(1)
        name = f"messages() of {os.path.basename(code.f_code.co_filename)}:{code.f_lineno}"
        reception = self._life.reception
        return reception.open(events=events, max_messages=max_messages, full=full, name=name)

    def receive(self) -> Coroutine[Any, Any, Message]:
        """Wait for the next message, of this session or a later one.

        `receive`, `receive_many` and iterating over the client share one stream, made at first
        use.

        Raises:
            GaveUp, ClosedLocally: the client is over, and all that arrived was received.
            Lagged: messages were dropped, since that stream was full and held up others: see
                `messages`.
            ValueError: this client was opened with `receive=False`.

        Cancellation, Checkpoint: as `Connection.receive`.
        """
        return self._own_stream().receive()

    def receive_many(self) -> Coroutine[Any, Any, list[Message]]:
        """Wait for the next message, and take with it all that has arrived.

        Raises, Cancellation, Checkpoint: as `receive`.
        """
        return self._own_stream().receive_many()

    def __aiter__(self) -> Messages[Message]:
        """Iterate over the messages of all sessions, until the client is closed.

        Raises:
            GaveUp: it gave up.
        """
        return self._own_stream()

    def _own_stream(self) -> Messages[Message]:
        if self._own is None:
            self._own = self._life.reception.open(
                events=False, max_messages=256, full="wait", name="client.receive()"
            )
        return self._own

    # The end.

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the client: flush for at most `close_timeout`, close the connection, and do not
        connect again.  Idempotent.

        What has arrived can still be received, except where flushing would have to wait until
        a stream has room for it: then it is discarded, and counted.

        Args:
            code, reason: told to the server, if there is a connection; see `Connection.aclose`.

        Raises:
            Unsent: not everything accepted could be written or, with `confirm`, confirmed.
                If the client gave up, that is its `__cause__`.  It is raised once.
            ValueError: *code* or *reason* cannot be sent; nothing was done.

        Cancellation: closes all the same, without flushing; then leaving the block tells what
        was not handed over.  Checkpoint: always.
        """
        check_close(code, reason)
        await self._life.close(code, reason)
