"""What a node asks an engine, and what it hears: the same for every engine.

Pure.  An engine does what one node asks in the order in which it was asked, and what it answers
and pushes arrives in the order in which it was done.  So whatever arrives before the answer to
Ask is part of that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from .._policy import Retain
from ._details import Details
from ._position import Position


class Entry(NamedTuple):
    """What was published: `id` is the node and its number there, and nothing else has it."""

    id: str
    frame: bytes
    skip: str | None
    details: Details


class Stored(NamedTuple):
    """An entry where it stands in its topic, and for how many seconds it has stood there."""

    offset: int
    entry: Entry
    age: float


class Publish(NamedTuple):
    """Publish *entry*; in a retry, unless it was.  Numbers of a node grow."""

    topic: str
    retain: Retain
    number: int
    entry: Entry
    is_retry: bool


class Subscribe(NamedTuple):
    """Push what is published from now on."""

    topic: str


class Unsubscribe(NamedTuple):
    topic: str


class Ask(NamedTuple):
    """Tell where the topic stands, for a node that has it up to the entry *id* at *offset*."""

    topic: str
    retain: Retain
    epoch: str
    offset: int
    id: str


class Load(NamedTuple):
    """Tell what lies behind *after*, up to and including *upto*."""

    topic: str
    retain: Retain
    after: int
    upto: int


class Ping(NamedTuple):
    """Say that you are there, and may be published to."""


Command: TypeAlias = Publish | Subscribe | Unsubscribe | Ask | Load | Ping


class Published(NamedTuple):
    position: Position


class Standing(NamedTuple):
    """Where a topic stands.

    Its *epoch* began behind the offset *begin*; *oldest* is the first that is retained (head + 1
    for none).  The entries are those behind what the node has, if that is of this epoch, else
    those of this epoch; none for a node that has nothing.
    """

    epoch: str
    head: int
    begin: int
    oldest: int
    entries: Sequence[Stored]


class Loaded(NamedTuple):
    epoch: str
    oldest: int
    entries: Sequence[Stored]


class Refusal(NamedTuple):
    """The engine did not do it, for a *reason* in its own words."""

    reason: str


class Done(NamedTuple):
    pass


Answer: TypeAlias = Published | Standing | Loaded | Refusal | Done


class Push(NamedTuple):
    """Something was published to a topic that the node subscribes to."""

    topic: str
    epoch: str
    stored: Stored
