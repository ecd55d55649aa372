"""Policy: the numbers that users may choose, frozen and checked when they are made.

Every limit has its reason beside it.  Nothing here knows how a limit is enforced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Literal, TypeAlias

from ._arguments import check_kind, check_sync
from ._dataclass import dataclass

# What users send and receive.
Message: TypeAlias = str | bytes


def check_positive(
    owner: object, names: Iterable[str], *, whole: bool, call: str | None = None
) -> None:
    """Raise if an attribute of *owner* is not a positive number.

    Args:
        call: what the user called, if that is not what *owner* is.
    """
    called = call or type(owner).__name__
    for name in names:
        value = getattr(owner, name)
        kinds: tuple[type, ...] = (int,) if whole else (int, float)
        good = isinstance(value, kinds) and not isinstance(value, bool)
        argument = f"{called}({name}={value!r})"
        if not good:
            hint = "; there is no way to have no limit here" if value is None else ""
            raise TypeError(f"{argument}: must be a{' whole' if whole else ''} number{hint}")
        if not value > 0:  # nor is NaN
            raise ValueError(f"{argument}: must be greater than 0")


def check_message(owner: str, value: object) -> None:
    """Raise unless *value* can be sent as a message."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{owner}: must be str or bytes, not {type(value).__name__}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{owner}: UTF-8 cannot hold the surrogate in {value!r}") from None


def bound(limit: int | None) -> int:
    """*limit* as a number to compare with: where there is none, one that nothing reaches."""
    return sys.maxsize if limit is None else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one connection, and one server, may cost.

    None means no limit, for sizes and numbers: then the peer decides about this program's memory.
    The times have no such value, since every wait on a peer ends; nor have the bounds that are met
    before anybody is known (`max_request_bytes`) and what `send` waits for (`send_bytes`).

    Args:
        max_message_bytes: the largest message that is accepted, over all its fragments; a
            larger one is answered with Close 1009.  1 MiB, as most implementations have it.
        max_request_bytes: the largest head of an HTTP request or response.  16 KiB: browsers
            with many cookies stay below it.
        inbox_messages, inbox_bytes: what may wait for `receive`; when either is reached,
            reading stops and TCP slows the peer down.  Bytes are counted as `len(message)`,
            for text in characters.  What one read brings is always taken in whole.  One of the
            two may be None.
        max_messages_per_second: a peer that sends faster than this is read more slowly, so that
            TCP slows it down; nothing is dropped.  In any t seconds no more than (t + 2) times
            as many (or one) are taken, so short bursts pass.  Whole messages count; pings and
            pongs do not: no handler works for them, and their answers do not add up.  None for
            no limit.
        send_bytes: `send` waits while more than this is queued for the peer.
        connect_timeout: seconds for TCP, TLS and the opening handshake together, either side.
            10, where 60 would invite slowloris.
        close_timeout: seconds for the closing handshake and the end of the transport.  Once both
            sides have said Close, a server waits no longer than one for the peer to end TCP.
        write_timeout: a peer that takes nothing of what is queued for it for so many seconds
            is given up.
        max_connections: connections that a server has open at once, handshakes included;
            further ones are answered with 503, or over TLS beyond twice as many closed.  Where
            there is an `http`, 16 more sockets are for plain requests of /healthz and /stats.
        max_connections_per_host: the same for each remote address; None for no limit.
    """

    max_message_bytes: int | None = 2**20
    max_request_bytes: int = 16 * 2**10
    inbox_messages: int | None = 256
    inbox_bytes: int | None = 2**20
    max_messages_per_second: float | None = None
    send_bytes: int = 64 * 2**10
    connect_timeout: float = 10
    close_timeout: float = 10
    write_timeout: float = 20
    max_connections: int | None = 10_000
    max_connections_per_host: int | None = None

    def __post_init__(self) -> None:
        names = [
            field.name
            for field in fields(self)
            if getattr(self, field.name) is not None or "None" not in str(field.type)
        ]
        if self.inbox_messages is None and self.inbox_bytes is None:
            raise ValueError(
                "Limits(inbox_messages=None, inbox_bytes=None): one of them must be a number, as "
                "nothing else slows a fast peer down"
            )
        times = [name for name in names if name.endswith(("_timeout", "_per_second"))]
        check_positive(self, times, whole=False)
        check_positive(self, (name for name in names if name not in times), whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """When a silent peer is asked for a sign of life, and when it is given up.

    Any byte from the peer is a sign of life, and so is its taking bytes that were queued.
    While this side is not reading (its inbox is full), the peer is not blamed.

    Args:
        interval: seconds of silence after which the peer is pinged.  A client pings each time
            they have passed, silent server or not, since many close what sends nothing.  20,
            under the 60 of common proxies.
        timeout: seconds after the ping by which anything must have arrived.
        message: sent instead of a ping frame, for servers that expect one of their own.
        reply: a message equal to this is swallowed: the answer to `message`.
    """

    interval: float = 20
    timeout: float = 20
    message: Message | None = None
    reply: Message | None = None

    def __post_init__(self) -> None:
        check_positive(self, ("interval", "timeout"), whole=False)
        for name in ("message", "reply"):
            if getattr(self, name) is not None:
                check_message(f"Heartbeat({name}=…)", getattr(self, name))
        if self.reply is not None and self.message is None:
            raise ValueError(f"Heartbeat(reply={self.reply!r}): needs a message to reply to")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """That messages are compressed where the peer agrees (permessage-deflate, RFC 7692).

    Every message is compressed by itself, at once and in the task that sends it (1 MiB of JSON
    takes some 15 ms); what is published to a topic, once for all of its subscribers.  Received
    messages count against `Limits.max_message_bytes` inflated, and are inflated no further
    than that.  From its first compressed message on, a peer costs 9 to 40 KiB, the window on
    what it has sent, unless it has promised not to refer to that.

    Secrets and what an attacker can choose should not be compressed in one message: its size
    tells about them.

    Args:
        level: from 1, fast, to 9, small.  6 as in zlib: 1 KiB of JSON takes 9 µs and becomes
            300 bytes, 16 KiB take 110 µs; with 1, they take 7 and 40 µs and become a tenth
            larger.
        min_bytes: smaller messages are sent as they are.  128: of less, hardly a quarter can
            be saved.  So are those that compression would not make smaller.
    """

    level: int = 6
    min_bytes: int = 128

    def __post_init__(self) -> None:
        check_positive(self, ("level", "min_bytes"), whole=True)
        if self.level > 9:
            raise ValueError(f"Deflate(level={self.level!r}): must be from 1 to 9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retain:
    """How much of a topic's past is kept, for history, resumption and slow consumers.

    Args:
        max_messages: publications; the newest one is always kept.  1,000 are a page of chat
            several times over.
        max_bytes: bytes of memory that they take together, which is some 200 for each beside
            its message.
        max_age: seconds, after which a publication is dropped even if it is the newest;
            None for no limit.
        patience: seconds for which more than that is kept for those who still need it.  Only
            then is a subscriber that has not taken it too slow: a burst overtakes nobody who
            reads.  1, which is longer than a round trip around the world and a busy moment.
            0 for none.
    """

    max_messages: int = 1000
    max_bytes: int = 2**20
    max_age: float | None = None
    patience: float = 1

    def __post_init__(self) -> None:
        check_positive(self, ("max_messages", "max_bytes"), whole=True)
        if isinstance(self.patience, bool) or self.patience != 0:
            check_positive(self, ("patience",), whole=False)
        if self.max_age is not None:
            check_positive(self, ("max_age",), whole=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a client connects again, and when it gives up.

    The wait after n attempts is drawn evenly between 0 and min(maximum, initial × 2ⁿ⁻¹)
    ("full jitter"), so that many clients that lost a server together do not come back
    together.

    Args:
        initial: seconds; the bound of the first wait.
        maximum: seconds; no wait is longer, unless the server asks with Retry-After.
        stable_after: seconds that a connection must have been up for the count of attempts
            to begin again; a server that accepts and drops must not cause a storm.
        max_attempts: give up after so many attempts without a stable connection; None: never.
        max_elapsed: give up so many seconds after the first of them; None: never.
        worth: `worth(error) -> bool` decides whether another attempt makes sense after
            *error*, which may be any that one of the user's callables raised.  By default
            `is_worth_retry`, except that a refusal (401, 403, Close 1008 and its like) is tried
            once more where `url`, `headers` or `subprotocols` is a callable, since tokens
            expire, and always after a connection that had lasted for a minute.
    """

    initial: float = 0.5
    maximum: float = 20
    stable_after: float = 5
    max_attempts: int | None = None
    max_elapsed: float | None = None
    worth: Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        check_positive(self, ("initial", "maximum", "stable_after"), whole=False)
        if self.maximum < self.initial:
            raise ValueError(
                f"Retry(initial={self.initial!r}, maximum={self.maximum!r}): "
                "maximum must not be below initial"
            )
        if self.max_attempts is not None:
            check_positive(self, ("max_attempts",), whole=True)
        if self.max_elapsed is not None:
            check_positive(self, ("max_elapsed",), whole=False)
        if self.worth is not None:
            check_sync("Retry", "worth(error)", self.worth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """What a client keeps of what it was given to send, and how surely.

    Args:
        max_messages, max_bytes: bounds of what is kept, whichever is reached first.
        full: what `send` does at a bound: "wait", "raise" OutboxFull, or "drop" the oldest
            message that was not sent yet (dropping is counted).
        confirm: keep messages until a pong proves that the server's endpoint has received
            them, and send them again on the next connection if none came: at least once.
            Without it, a message is kept until the kernel has taken it: at most once.
        max_resends: a message that was sent so often without being confirmed leaves the
            outbox, so that one of which a server dies does not hold up those behind it for
            ever: as an `Undelivered` among the events, with a WARNING, a count, and in
            `Unsent.messages` in the end.  Only a send on a connection that had answered an
            earlier ping counts, so that a path that answers none empties nothing.  20: with the
            default Retry that takes five minutes or so.  None: it is sent for ever.
    """

    max_messages: int = 1000
    max_bytes: int = 2**20
    full: Literal["wait", "raise", "drop"] = "wait"
    confirm: bool = False
    max_resends: int | None = 20

    def __post_init__(self) -> None:
        check_positive(self, ("max_messages", "max_bytes"), whole=True)
        if self.max_resends is not None:
            check_positive(self, ("max_resends",), whole=True)
        check_kind("Outbox", "confirm", self.confirm, bool)
        if self.full not in ("wait", "raise", "drop"):
            raise ValueError(f"Outbox(full={self.full!r}): must be 'wait', 'raise' or 'drop'")
        if self.confirm and self.full == "drop":
            raise ValueError("Outbox(full='drop', confirm=True): what is confirmed is not dropped")
