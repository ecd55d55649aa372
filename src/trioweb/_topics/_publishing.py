"""Publishing: what a broker gets of a message, and how that enters the log with its offset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from .._connection import Connection
from .._effort import EFFORT
from .._policy import Message
from .._protocol._frames import SERVER_FORM, encode_message
from ._details import NOTHING, Details, Kind, Publisher, describe
from ._life import trim
from ._pass import expect_next
from ._shape import COST_OF_WRITE
from ._subscription import check_peer

if TYPE_CHECKING:
    from ._topic import Topic


class PublishDetails(TypedDict, total=False):
    """What `Topic.publish` takes by name."""

    key: str | None
    tags: Mapping[str, str] | None
    publisher: Publisher | None
    kind: Kind | None


def prepare(
    message: Message | bytearray | memoryview,
    skip: Connection | str | None,
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
    publisher: Publisher | None = None,
    kind: Kind | None = None,
) -> tuple[bytes, str | None, Details]:
    """What a broker gets of what is published."""
    details = NOTHING
    if key is not None or tags is not None or publisher is not None or kind is not None:
        message, details = describe(message, key, tags, publisher, kind)
    return encode_message(message, SERVER_FORM), None if skip is None else key_of(skip), details


def key_of(skip: Connection | str | None) -> str | None:
    """The key of who does not get a publication."""
    return skip.peer if isinstance(skip, Connection) else check_peer("skip", skip)


def accept(
    topic: Topic, frame: bytes, skip: str | None, details: Details, size: int, now: float
) -> int:
    """Append what was published to the log, which has room for its *size*, and have it
    delivered; return its offset."""
    log = topic._log
    offset = log.append(frame, skip, now, details)
    hub = topic._hub
    hub._published += 1
    # As much as to write it once.
    EFFORT.spent += COST_OF_WRITE + (size >> 8)
    retention = hub._retention
    retention.resized(topic, size, 1)
    if topic._members or topic._readers:
        hub._pump.touch(topic)
        if topic._readers:
            topic._news.changed()
    else:
        retention.used(topic)
        # Nobody needs what goes.
        trim(topic, log.floor(now))
        expect_next(topic, now)
    return offset
