"""What topic clients are told on the wire, command by command, and what must be true of it.

Each line of a client (a connection) is read along: what it asks, and what it is answered.

Rules kept here: nothing is asked of what client or server remember, which may be what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from trioweb import Connection
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._commands import Command
from trioweb._centrifuge._replies import Join, Leave, Reply, Subscribe, Unsubscribe
from trioweb._topic_client._line import Line

# Who is told that something must not be, by the number of the check.
Fail = Callable[[int, str], None]

# What a Close of the protocol's has, others have not.
_PROTOCOLS_CODES: Final = 3000
# Of what was missed, so much may stand in a reply.
_BYTES_IN_REPLY: Final = 16 * 2**10


class WireSubscription:
    """A subscription, as a line was told of it.

    Attributes:
        epoch, offset: of the last publication that was told of, or behind which it began.
        is_there: whether others were said to be there, by client.
    """

    def __init__(self, epoch: str, offset: int) -> None:
        self.epoch = epoch
        self.offset = offset
        self.is_there: dict[str, bool] = {}


class WireTap:
    """One line, read along.

    Args:
        ping: seconds between two pings of the server's.
        retained: what each topic retains at least.
        keys: of publications that were sent so far, on all lines.

    Attributes:
        subscriptions: by topic.
        pings: when they came.
    """

    def __init__(
        self,
        line: Line,
        *,
        ping: float,
        retained: Callable[[str], int],
        keys: set[str],
        fail: Fail,
        reached: Counter[str],
    ) -> None:
        self.connection: Connection = line.connection
        self.subscriptions: dict[str, WireSubscription] = {}
        self.pings: list[float] = []
        self._line = line
        self._codec: Any = line.codec
        self._ping = ping
        self._retained = retained
        self._keys = keys
        self._fail = fail
        self._reached = reached
        self._requests: dict[int, Any] = {}
        self._asked_at = trio.current_time()

    # In the place of the line's codec.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, command: Command) -> str | bytes:
        if command.id:
            self._requests[command.id] = command.request
        if command.publish is not None:
            key = command.publish.x_key
            self._reached["published again"] += key in self._keys
            self._keys.add(key)
        encoded: str | bytes = self._codec.encode(command)
        return encoded

    def decode_replies(self, message: str | bytes) -> Iterator[Reply]:
        try:
            for reply in self._codec.decode_replies(message):
                self._see(reply)
                yield reply
        except Exception as exc:
            self.fail(4, f"cannot decode {message!r:.80}: {exc!r}")
            raise

    # What is seen.

    def fail(self, check: int, what: str) -> None:
        self._fail(check, f"{self._line.client}: {what}")

    def _see(self, reply: Reply) -> None:
        if reply.is_ping:
            self._see_ping()
        elif reply.push is not None:
            self._see_push(reply.push.topic, reply.push.event)
        else:
            request = self._requests.pop(reply.id, None)
            if request is None:
                self.fail(1, f"a reply to {reply.id}, which was not asked, or is answered")
            elif reply.error is None:
                self._see_result(request, reply.result)

    def _see_ping(self) -> None:
        now = trio.current_time()
        self.pings.append(now)
        # The server counts from when it was asked; it cannot be early, whatever the network does.
        if now < self._asked_at + len(self.pings) * self._ping - 1e-6:
            self.fail(6, f"ping {len(self.pings)} came early")

    def _see_result(self, request: Any, result: Any) -> None:
        match request:
            case wire.ConnectRequest():
                for name, told in result.subs.items():
                    self._reached["subscribed from the start"] += 1
                    asked = request.subs.get(name, wire.SubscribeRequest())
                    self._see_beginning(name, asked, told)
            case wire.SubscribeRequest():
                self._see_beginning(request.topic, request, result)
            case wire.UnsubscribeRequest():
                self.subscriptions.pop(request.topic, None)

    def _see_beginning(
        self, name: str, request: wire.SubscribeRequest, result: wire.SubscribeResult
    ) -> None:
        if name in self.subscriptions:
            self.fail(1, f"{name} is subscribed twice")
        if not (result.positioned and result.recoverable and result.epoch):
            self.fail(3, f"{name} has no position")
        new = self.subscriptions[name] = WireSubscription(result.epoch, result.offset)
        if result.was_recovering != request.recover:
            self.fail(3, f"{name}: recovering is {result.was_recovering}, not {request.recover}")
        if result.recovered:
            self._reached["recovered"] += 1
            self._reached["recovered in the reply"] += bool(result.publications)
            if not request.recover or (result.epoch, result.offset) != (
                request.epoch,
                request.offset,
            ):
                self.fail(3, f"{name}: {request} recovered as {result}")
        else:
            self._see_unrecovered(name, request, result)
        size = sum(len(bytes(each.data)) for each in result.publications if each.data)
        if size > _BYTES_IN_REPLY:
            self.fail(11, f"{name}: {size} bytes of what was missed in the reply")
        for publication in result.publications:
            self._see_publication(name, new, publication.offset)

    def _see_unrecovered(
        self, name: str, request: wire.SubscribeRequest, result: wire.SubscribeResult
    ) -> None:
        if result.publications:
            self.fail(3, f"{name}: recovered in part")
        missed = result.offset - request.offset
        if (
            request.recover
            and result.epoch == request.epoch
            and 0 <= missed <= self._retained(name)
        ):
            self.fail(3, f"{name}: not recovered, though only {missed} were missed")

    def _see_push(self, name: str, event: object) -> None:
        subscription = self.subscriptions.get(name)
        match event:
            case wire.Publication() | Join() | Leave() if subscription is None:
                self.fail(1, f"{name}: {type(event).__name__} outside of a subscription")
            case wire.Publication(offset=offset) if subscription is not None:
                self._see_publication(name, subscription, offset)
            case Join(info=wire.ClientInfo(client=client)) if subscription is not None:
                self._reached["joins"] += 1
                if subscription.is_there.get(client, False):
                    self.fail(9, f"{name}: {client} has joined twice")
                subscription.is_there[client] = True
            case Leave(info=wire.ClientInfo(client=client)) if subscription is not None:
                self._reached["leaves"] += 1
                if not subscription.is_there.get(client, True):
                    self.fail(9, f"{name}: {client} has left twice")
                subscription.is_there[client] = False
            case Subscribe() as told:
                self._reached["subscribed by the server"] += 1
                if subscription is not None:
                    self.fail(1, f"{name} is subscribed twice")
                if not (told.positioned and told.recoverable and told.epoch):
                    self.fail(3, f"{name} has no position")
                self.subscriptions[name] = WireSubscription(told.epoch, told.offset)
            case Unsubscribe():
                self._reached["unsubscribed by the server"] += 1
                if self.subscriptions.pop(name, None) is None:
                    self.fail(1, f"{name} is unsubscribed, and was not subscribed")

    def _see_publication(self, name: str, subscription: WireSubscription, offset: int) -> None:
        if offset != subscription.offset + 1:
            self.fail(1, f"{name}: {offset} follows {subscription.offset}")
        subscription.offset = offset

    # In the end.

    def check_close(self) -> None:
        """The Close that has ended this, if one has, says why, and not in JSON."""
        code, reason = self.connection.close_code, self.connection.close_reason
        if code is not None and code >= _PROTOCOLS_CODES:
            self._reached["Closes of the protocol"] += 1
            if not reason or reason.startswith("{"):
                self.fail(5, f"closed with {code} and {reason!r}")


@contextmanager
def tapped(make: Callable[[Line], WireTap]) -> Iterator[None]:
    """Have each line of topic clients read along, for the length of a block."""
    original: Any = Line.__init__

    def tap(line: Line, *args: Any) -> None:
        original(line, *args)
        codec: Any = make(line)
        line.codec = codec

    init: Any = tap
    setattr(Line, "__init__", init)  # noqa: B010 - mypy wants no method to be assigned
    try:
        yield
    finally:
        setattr(Line, "__init__", original)  # noqa: B010
