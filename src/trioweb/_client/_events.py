"""What stands in a stream beside messages, where that was asked for: events in their place."""

from __future__ import annotations

from typing import Final, TypeAlias

from .._dataclass import dataclass
from .._policy import Message


@dataclass(frozen=True, slots=True)
class Opened:
    """A session began; what follows in the stream was received in it.

    Attributes:
        session: 1 for the client's first connection, and so on.
        subprotocol: the one agreed upon, or None.
    """

    session: int
    subprotocol: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A session ended; all that was received in it stands before this.

    Attributes:
        session: its number.
        error: why it ended.
    """

    session: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt to connect has failed, or a session is lost, and the next attempt is to come.

    One that nobody has received is replaced by the next.

    Attributes:
        error: why.
        seconds: until the next attempt begins, from when this was added.
        attempt: how many attempts there have been since the last stable connection.
    """

    error: Exception
    seconds: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A message that was sent again and again, and never confirmed, has left the outbox.

    See `Outbox.max_resends`.

    Attributes:
        message: it.
        sends: how often it was sent on a connection that had answered an earlier ping.
    """

    message: Message
    sends: int


Event: TypeAlias = Opened | Lost | Waiting | Undelivered
EVENTS: Final = (Opened, Lost, Waiting, Undelivered)
