"""A window: what one node has of a topic whose log an engine keeps.

    DETACHED ──── somebody uses it ───▶ ASKING ──── the engine has said where it stands ───▶ LIVE
       ◀─────── nobody has for a while ───┴──◀───── something does not fit: ask again ────────┘

While it is LIVE it has no hole and ends where the engine's log does.  It begins at the head, and
grows backwards when somebody needs what is older.  What is pushed to it while it is not LIVE is
part of the answer that it waits for.

Each question where the topic stands begins a stint, and so does being detached.  What was asked in
an earlier one may still be answered, as when a topic is detached and attached again meanwhile.
Such an answer lacks what was published in between, so it counts for nothing.

Pure of I/O: the node hands in what arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import HubFull
from ._commands import Answer, Ask, Loaded, Standing, Stored, Subscribe
from ._life import prepend, start_anew
from ._position import Since
from ._publishing import accept

if TYPE_CHECKING:
    from ._topic import Topic


_Q = TypeVar("_Q", Subscribe, Ask)


class State(Enum):
    """See the top of this module."""

    DETACHED = "DETACHED"
    ASKING = "ASKING"
    LIVE = "LIVE"


DETACHED: Final = State.DETACHED
ASKING: Final = State.ASKING
LIVE: Final = State.LIVE


class Keeper(Protocol):
    """What a window needs of the node that it is one of.

    Attributes:
        restarts: lives of topics that have ended while they were attached.
        lingers: whether a topic that nobody uses is received for a while.
    """

    restarts: int
    lingers: bool

    def attach(self, window: Window) -> None:
        """Receive the topic of *window*, and tell it where that stands."""
        ...

    def detach(self, window: Window) -> None:
        """Do not receive it any more."""
        ...

    def ask(self, window: Window) -> None:
        """Tell *window* where its topic stands."""
        ...

    def load(self, window: Window, after: int, upto: int, loaded: Callable[[Answer], None]) -> None:
        """Call *loaded* with what lies there; if the connection is lost before, it is asked for
        again."""
        ...

    def in_use(self, window: Window) -> None:
        """Somebody uses it again."""
        ...

    def unused(self, window: Window) -> None:
        """Nobody does."""
        ...


class Window:
    """What this node has of *topic*.

    Attributes:
        begin: the offset behind which the epoch began.
        node: what it belongs to.
        restarts: epochs that ended here.
        waiting: who waits for what: a place to start from, and what to call when it is here.
    """

    __slots__ = (
        "_head_id",
        "_is_loading",
        "_oldest",
        "_state",
        "_stint",
        "begin",
        "node",
        "restarts",
        "topic",
        "waiting",
    )

    def __init__(self, topic: Topic, node: Keeper) -> None:
        self.topic = topic
        self.begin = 0
        self.restarts = 0
        self.waiting: dict[object, tuple[Since | None, int, Callable[[], None]]] = {}
        self.node = node
        self._state = DETACHED
        self._stint = 0
        # The entry at the head, if it was published while this was attached.
        self._head_id = ""
        # What the engine may have is not older than this.
        self._oldest = 0
        self._is_loading = False

    # Users.

    @property
    def is_attached(self) -> bool:
        return self._state is not DETACHED

    @property
    def lingers(self) -> bool:
        """Whether the topic stays, though nobody uses it and there is nothing of it."""
        return self.is_attached and self.node.lingers

    def use(self) -> None:
        """Somebody uses the topic, which is one of its hub's."""
        self.node.in_use(self)
        if self._state is DETACHED:
            self._state = ASKING
            self.node.attach(self)

    def unused(self) -> None:
        """Nobody uses the topic, for now."""
        if self._state is not DETACHED:
            self.node.unused(self)

    def detach(self) -> None:
        """Nobody uses the topic any more, or it has to go."""
        if self._state is not DETACHED:
            self._begin_stint(DETACHED)
            self._head_id = ""
            self.node.detach(self)

    def has(self, since: Since | None, history: int) -> bool:
        """Whether all that the engine may have of this is here; see `Topic.subscribe`."""
        return self._state is LIVE and self._lacking(since, history) is None

    def wait(
        self, who: object, since: Since | None, history: int, placed: Callable[[], None]
    ) -> None:
        """Call *placed* once that is here, unless *who* leaves `waiting` before."""
        self.waiting[who] = since, history, placed
        self._settle()

    async def load(self, since: Since | None, history: int) -> None:
        """Wait until that is here.  Checkpoint: not always."""
        topic, who = self.topic, object()
        self.wait(who, since, history, topic._news.changed)
        try:
            if who in self.waiting:
                topic._hub._retention.settle(topic)  # it must not go meanwhile
            while who in self.waiting:
                topic._hub._check_open()
                await topic._news.wait_change()
        finally:
            self.waiting.pop(who, None)
            topic._settle()

    # What the node tells.

    def question(self, kind: type[_Q]) -> _Q:
        """The question where the topic stands."""
        topic = self.topic
        return kind(topic.name, topic.retain, topic._epoch, topic._log.head, self._head_id)

    def ask(self) -> Callable[[Answer], None]:
        """What was here need not be all any more: what to call with the answer to `question`."""
        self._begin_stint(ASKING)
        return partial(self._told, self._stint)

    def _begin_stint(self, state: State) -> None:
        self._state = state
        self._stint += 1
        self._is_loading = False

    @enable_ki_protection
    def _told(self, stint: int, answer: Answer) -> None:
        """The engine has answered what was asked."""
        if stint != self._stint or not isinstance(answer, Standing):
            return
        topic = self.topic
        epoch, head, begin, oldest, entries = answer
        first = entries[0].offset if entries else head + 1
        self.begin, self._oldest = begin, oldest
        self._state = LIVE
        if epoch != topic._epoch:
            # Of another life is missing what its log has lost already.
            is_first = not topic._epoch
            self._head_id = ""
            start_anew(topic, epoch, first - 1, None if is_first else first - 1 - begin)
            if not is_first:
                self.restarts += 1
                self.node.restarts += 1
        elif first != topic._log.head + 1:
            self._jump(first - 1)
        for stored in entries:
            self._append(stored)
        self._settle()

    def receive(self, epoch: str, stored: Stored) -> None:
        """Something was published."""
        if self._state is not LIVE:
            return
        if epoch != self.topic.epoch or stored.offset != self.topic.head + 1:
            self.node.ask(self)
        else:
            self._append(stored)

    @enable_ki_protection
    def _loaded(self, stint: int, after: int, loaded: Answer) -> None:
        """The engine has loaded what lies before the window and behind *after*."""
        if stint != self._stint or not isinstance(loaded, Loaded):
            return
        self._is_loading = False
        if loaded.epoch != self.topic.epoch:
            self.node.ask(self)
            return
        log, entries = self.topic._log, loaded.entries
        # In front of what has left the window in the meantime it has no place any more.
        if entries and entries[-1].offset == log.first - 1:
            self._prepend(entries)
        self._oldest = loaded.oldest
        if log.first - 1 > max(after, self._oldest - 1):
            self._oldest = log.first  # there was no room for all, or it need not be kept
        self._settle()

    # The log.

    def _append(self, stored: Stored) -> None:
        topic = self.topic
        offset, entry, age = stored
        log = topic._log
        now = trio.current_time() - age
        if log.first <= log.head:
            now = max(now, log.time(log.head))
        try:
            topic._hub._retention.reserve(topic, entry.size)
        except HubFull:
            # Not for this node; those who wanted it are told.
            self._jump(offset)
        else:
            accept(topic, entry.frame, entry.skip, entry.details, entry.size, now)
        self._head_id = entry.id

    def _prepend(self, entries: Sequence[Stored]) -> None:
        topic, now = self.topic, trio.current_time()
        room = topic._hub._retention.room
        fitting = []
        for _, entry, age in reversed(entries):
            room -= entry.size
            if room < 0:
                break
            fitting.append((entry.frame, entry.skip, entry.details, now - age))
        prepend(topic, fitting)

    def _jump(self, head: int) -> None:
        """What lies between the head and *head* cannot be had."""
        self._oldest = head + 1
        start_anew(self.topic, self.topic.epoch, head, None)

    # Those who wait.

    def _lacking(self, since: Since | None, history: int) -> int | None:
        """The offset behind which something is lacking, None for nothing."""
        topic = self.topic
        head, first = topic.head, topic._log.first
        match since:
            case None:
                after = head - history
            case (str() as epoch, int(offset)):
                after = offset if epoch == topic.epoch and offset <= head else 0
            case _:
                after = since if isinstance(since, int) and since <= head else 0
        after = max(after, self._oldest - 1, head - topic.retain.max_messages, 0)
        return after if after < first - 1 else None

    def _settle(self) -> None:
        """See who has what they wait for; ask for what the others need."""
        if self._state is not LIVE:
            return
        least: int | None = None
        for who, (since, history, placed) in tuple(self.waiting.items()):
            after = self._lacking(since, history)
            if after is None:
                self.waiting.pop(who, None)
                placed()
            else:
                least = after if least is None else min(least, after)
        if least is not None and not self._is_loading:
            self._is_loading = True
            loaded = partial(self._loaded, self._stint, least)
            self.node.load(self, least, self.topic._log.first - 1, loaded)
