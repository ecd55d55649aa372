"""Every exception of trioweb: their tree, and those of them that trioweb itself raises.

    TriowebError
    ├── ConnectionClosed            .code .reason; one of the three below
    │   ├── ClosedLocally           this side closed it (also trio.ClosedResourceError)
    │   ├── ClosedByPeer            the peer sent Close (also trio.BrokenResourceError)
    │   └── ConnectionLost          no Close: network, silence, violation (also Broken…)
    ├── OpenFailed                  there was never a connection (also Broken…)
    │   ├── ConnectFailed           name, TCP, proxy or TLS
    │   │   └── ProxyRefused        .status: the proxy said no
    │   ├── HandshakeFailed         no answer in time, or one that is not RFC 6455
    │   └── HandshakeRejected       .status .headers .body: the server said no
    ├── TryAgain                    raised *by* a client's callables: this attempt has failed
    ├── Reject                      raised *by* an `admit` to say no: .status .headers .body
    ├── Refuse                      raised *by* a topic server's callables to say no: .code .message
    ├── Dismiss                     raised *by* them to end the connection: .code .reason
    ├── Refused                     .code .message .temporary: the peer has said no
    ├── Unsubscribed                .code .reason: a server has ended a subscription
    ├── Gap                         .topic .since .position .missing: publications were missed
    ├── GaveUp                      .attempts .last .unsent: the client will not connect again
    ├── Unsent                      .count .messages that a client could not hand over in time
    ├── OutboxFull                  the client keeps all it may (full="raise")
    ├── NotReceiving                sending waits for the program itself to receive
    ├── BrokerFull                  too much waits for the broker (also trio.WouldBlock)
    ├── Unpublished                 .reason: what was posted was not published, as far as is known
    ├── HubFull                     .limit: nothing can go to make room
    ├── StoreError                  .path .reason: the store of a hub cannot be opened
    ├── Lagged                      .skipped: publications or messages were lost unread
    ├── FrameError                  .code .reason: bytes that break RFC 6455; never leaves
    └── BadMessage                  no message of the Centrifuge protocol; never leaves

The class says whose fault it is, so that a program that already handles Trio's two resource
errors handles these too.  Those that are raised *by* callables of programs stand in `_refusals`.
Nothing here performs I/O; Trio is imported for its base classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from ._close_codes import CloseCode
from ._policy import Message
from ._redaction import first_words, shown_url, without_secrets


class TriowebError(Exception):
    """The base of every error that trioweb raises on its own account."""


class ConnectionClosed(TriowebError):
    """The connection is over; which subclass says whose doing that was.

    Attributes:
        code: the close code of the Close that ended it, ours or the peer's, whichever
            was first; 1005 if that Close had none, 1006 if there was no Close at all.
        reason: the reason given with it, or what went wrong, in words; may be empty.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self._summary} ({self.code}{', ' + repr(self.reason) if self.reason else ''})"

    _summary = "connection closed"


class ClosedLocally(ConnectionClosed, trio.ClosedResourceError):
    """This side closed the connection."""

    _summary = "connection closed by this side"


class ClosedByPeer(ConnectionClosed, trio.BrokenResourceError):
    """The peer sent a Close frame."""

    _summary = "connection closed by the peer"


class ConnectionLost(ConnectionClosed, trio.BrokenResourceError):
    """The connection ended without a Close from the peer.

    The network failed, the peer fell silent or stopped reading, or it broke the protocol
    (then `code` is the 1002, 1007 or 1009 that we sent it).
    """

    _summary = "connection lost"


class OpenFailed(TriowebError, trio.BrokenResourceError):
    """A connection could not be opened.  `__cause__` has the underlying error, if any."""


class ConnectFailed(OpenFailed):
    """The transport could not be opened: name resolution, TCP or TLS failed or took too long.

    Attributes:
        untrusted: the server's certificate is not one that we trust, and will not be.
    """

    def __init__(self, text: str, *, untrusted: bool = False) -> None:
        super().__init__(text)
        self.untrusted = untrusted


class ProxyRefused(ConnectFailed):
    """A proxy would not connect us with the server.

    Attributes:
        status: the HTTP status that it answered with; None if it speaks SOCKS.
        denied: in SOCKS, which has no status, that it does not know us, or lets nobody go there,
            and will not the next time.  False for a status.
    """

    def __init__(self, text: str, status: int | None = None, *, denied: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.denied = denied


class HandshakeFailed(OpenFailed):
    """The peer did not complete the opening handshake as RFC 6455 section 4 asks."""


class HandshakeRejected(OpenFailed):
    """The server answered the opening handshake with another status than 101.

    Attributes:
        status: the HTTP status.
        headers: (name, value) pairs, names in lower case; `header` finds one.
        body: the start of the response's body, at most 64 KiB.
    """

    def __init__(self, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b""):
        super().__init__(status)
        self.status = status
        self.headers = tuple(headers)
        self.body = body

    def __str__(self) -> str:
        text = f"server rejected the WebSocket handshake with HTTP status {self.status}"
        if 300 <= self.status < 400 and (location := self.header("location")) is not None:
            text += f", to {shown_url(location)}"
        reason = first_words(self.body)
        return f"{text}: {reason}" if reason else text

    def header(self, name: str) -> str | None:
        """The first value of the header *name*, whatever its case, or None."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)


class Refused(TriowebError):
    """The peer has refused what it was asked for.

    Attributes:
        code: the protocol's, or the application's from 400 on.
        message: for people.
        temporary: whether the peer says that trying again makes sense.
    """

    def __init__(self, code: int, message: str, temporary: bool = False) -> None:
        super().__init__(code, message, temporary)
        self.code = code
        self.message = message
        self.temporary = temporary

    def __str__(self) -> str:
        return f"refused: {self.message} ({self.code})"


class Unsubscribed(TriowebError):
    """The server has ended a subscription of a topic client's, for good.

    Attributes:
        code: the protocol's, or the application's.
        reason: for people.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"unsubscribed by the server: {self.reason} ({self.code})"


class Gap(TriowebError):
    """Publications of a topic may be missing here, and nobody can tell which.

    Attributes:
        topic: its name.
        since: (epoch, offset) of the last publication before; None if the topic has no positions.
        position: (epoch, offset) behind which it goes on, likewise.
        missing: how many are missing; None if that is not known, as in another life of the topic.
    """

    def __init__(
        self, topic: str, since: tuple[str, int] | None, position: tuple[str, int] | None
    ) -> None:
        super().__init__(topic, since, position)
        self.topic = topic
        self.since = since
        self.position = position
        self.missing: int | None = None
        if since is not None and position is not None and since[0] == position[0]:
            self.missing = max(position[1] - since[1], 0)

    def __str__(self) -> str:
        number = "an unknown number of" if self.missing is None else str(self.missing)
        return f"{number} publications of topic {self.topic!r} were missed"


class GaveUp(TriowebError):
    """The client has stopped connecting.  `last` is also its `__cause__`.

    Attributes:
        attempts: attempts since the last stable connection.
        last: the error that ended the last one.
        unsent: the messages that the client had accepted and not handed over, as
            `Unsent.messages`.
    """

    def __init__(self, attempts: int, last: Exception, unsent: Sequence[Message] = ()) -> None:
        super().__init__(attempts, last)
        self.attempts = attempts
        self.last = last
        self.unsent = tuple(unsent)
        self.__cause__ = last

    def __str__(self) -> str:
        s = "" if self.attempts == 1 else "s"
        text = str(self.last) or type(self.last).__name__
        return f"gave up after {self.attempts} attempt{s}: {without_secrets(text)}"


class Unsent(TriowebError):
    """A client ended before everything that it had accepted was written, or confirmed.

    Attributes:
        count: how many messages.
        messages: they, in the order accepted, for whoever wants to try in another way.  Of those
            that had been given up (`Outbox.max_resends`), the last ones, within the bounds of the
            outbox.
    """

    def __init__(self, count: int, messages: Sequence[Message] = ()) -> None:
        super().__init__(count)
        self.count = count
        self.messages = tuple(messages)

    def __str__(self) -> str:
        what = (
            "1 accepted message was" if self.count == 1 else f"{self.count} accepted messages were"
        )
        return f"{what} not handed over"


class OutboxFull(TriowebError):
    """The outbox is at a bound; the message was not accepted."""


class NotReceiving(TriowebError):
    """Sending waits for the server, and the server's answers, or the next connection to it, wait
    until this program receives.  The text names the streams that are full.  Receive in another
    task, or raise the bounds of the inbox."""


class HubFull(TriowebError):
    """The hub is at a bound, and holds nothing that could go: topics that are used, and the newest
    publication of each; or what its store has not committed yet.

    Attributes:
        limit: the bound, with its unit: "10000 topics".
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the hub is full ({self.limit}), and nothing in it can go"


class StoreError(TriowebError):
    """The store of a hub cannot be opened: another hub has it, it is none, or the disk refuses it.

    Attributes:
        path: of the store.
        reason: what is wrong.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot open the store {self.path}: {self.reason}"


class BrokerFull(TriowebError, trio.WouldBlock):
    """So much waits for the broker that no more is taken; nothing was published.

    `Topic.publish_confirmed` waits for room instead.

    Attributes:
        limit: what waits, with its units: "10000 publications, 65536 bytes".
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the broker has not answered yet for {self.limit}, and takes no more"


class Unpublished(TriowebError):
    """What was posted to a topic was refused, or there was no answer before the hub was closed.

    Attributes:
        reason: in the words of whoever refused it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not published: {self.reason}"


class Lagged(TriowebError):
    """A reader fell behind: of publications behind what their topic retains, of a client's
    messages behind what its stream holds.

    Attributes:
        skipped: how many were lost unread.  Reading on continues with the oldest one left.
        max_messages: what the client's stream holds; None of publications.
    """

    def __init__(self, skipped: int, max_messages: int | None = None) -> None:
        super().__init__(skipped, max_messages)
        self.skipped = skipped
        self.max_messages = max_messages

    def __str__(self) -> str:
        if self.max_messages is None:
            return f"{self.skipped} publications left the log before they were read"
        return (
            f"{self.skipped} messages were dropped before they were received: this stream holds "
            f"max_messages={self.max_messages}"
        )


class FrameError(TriowebError):
    """Received bytes break RFC 6455.  The link turns it into a Close; users never see it.

    Attributes:
        limit: which of our limits they are beyond; "" for none.  The peer has no use for that.
    """

    def __init__(self, code: CloseCode, reason: str, limit: str = "") -> None:
        super().__init__(code, reason, limit)
        self.code = code
        self.reason = reason
        self.limit = limit


class BadMessage(TriowebError):
    """What a peer has sent is no message of the Centrifuge client protocol.

    Its text says what is wrong, without repeating what was sent.  Users never see it.
    """
