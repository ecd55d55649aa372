"""What a node asks an engine, and what it hears: the same for every engine.

Pure.  An engine does what one node asks in the order in which it was asked, and what it answers
and pushes arrives in the order in which it was done.  So whatever arrives before the answer to
Subscribe or Ask is part of that answer.

Who is in a topic has the same two sides.  What a node has entered is its own to know; the engine
has a copy under a lease, which is the node's while it has this connection.  A copy whose lease has
run out is nobody's: what is read leaves it out, and whoever renews a lease is told where to clear
up.  A lease is called as its node, a dot, and a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from .._policy import Retain
from ._details import Details
from ._log import size_of
from ._position import Position


class Entry(NamedTuple):
    """What was published: `id` is the node and its number there, and nothing else has it; `size`
    are the bytes of memory that it takes."""

    id: str
    frame: bytes
    skip: str | None
    details: Details
    size: int


# Of what is made for each publication, a tuple of all that it has takes half the time.
new_entry: Final[Callable[[tuple[str, bytes, str | None, Details, int]], Entry]] = partial(
    tuple.__new__, Entry
)


def entry_of(id: str, frame: bytes, skip: str | None, details: Details) -> Entry:
    return Entry(id, frame, skip, details, size_of(frame, skip) + details.size)


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


new_publish: Final[Callable[[tuple[str, Retain, int, Entry, bool]], Publish]] = partial(
    tuple.__new__, Publish
)


class Subscribe(NamedTuple):
    """Push what is published from now on, and do what Ask does."""

    topic: str
    retain: Retain
    epoch: str
    offset: int
    id: str


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


class Renew(NamedTuple):
    """Keep what was entered under *lease* for so many seconds from now on."""

    lease: str
    seconds: float


class Expire(NamedTuple):
    """Nothing is left that should be there under *lease*."""

    lease: str


class Enter(NamedTuple):
    """*key* is in the topic, as what *user* and *info* say; if another lease has it, from now on
    under this one."""

    topic: str
    lease: str
    key: str
    user: str
    info: bytes


class Leave(NamedTuple):
    """*key* is not in the topic any more, if it is this lease's; *is_last* if that has no other
    there."""

    topic: str
    lease: str
    key: str
    is_last: bool


class Members(NamedTuple):
    """Tell who is in the topic: what comes at *cursor*, which is "0" for the beginning."""

    topic: str
    cursor: str


class Count(NamedTuple):
    """Tell how many are in the topic."""

    topic: str


class Watch(NamedTuple):
    """Push who comes and goes from now on."""

    topic: str


class Unwatch(NamedTuple):
    topic: str


class Reap(NamedTuple):
    """Remove whom no lease holds, from *cursor* on; then forget that *lease*, which has run out,
    has had anybody there."""

    topic: str
    lease: str
    cursor: str


PresenceCommand: TypeAlias = (
    Renew | Expire | Enter | Leave | Members | Count | Watch | Unwatch | Reap
)
Command: TypeAlias = Publish | Subscribe | Unsubscribe | Ask | Load | Ping | PresenceCommand


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


class Renewed(NamedTuple):
    """The lease holds.  If it *is_new*, nothing does that was entered under it before.  *expired*
    is another one that has run out, "" for none, and *topics* are where it may have somebody."""

    is_new: bool
    expired: str
    topics: Sequence[str]


class Present(NamedTuple):
    """Some who are in the topic, as key, user, info.  *version* is that of the last change;
    *cursor* is for more, "0" if these are the last."""

    version: int
    cursor: str
    members: Sequence[tuple[str, str, bytes]]


class Counted(NamedTuple):
    """How many keys and how many users are in a topic."""

    members: int
    users: int


class Reaped(NamedTuple):
    """Go on at *cursor*; "0" if there is no more to do."""

    cursor: str


class Refusal(NamedTuple):
    """The engine did not do it, for a *reason* in its own words."""

    reason: str


class Done(NamedTuple):
    pass


# Where what was published stands is said as it is.
Answer: TypeAlias = (
    Position | Standing | Loaded | Renewed | Present | Counted | Reaped | Refusal | Done
)


class Push(NamedTuple):
    """Something was published to a topic that the node subscribes to."""

    topic: str
    epoch: str
    stored: Stored


class Changed(NamedTuple):
    """Somebody is in a topic that the node watches, or is not any more.  Each change has the
    *version* behind that of the one before."""

    topic: str
    version: int
    key: str
    user: str
    info: bytes
    is_there: bool


Pushed: TypeAlias = Push | Changed
