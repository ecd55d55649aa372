"""A reader: a cursor into a topic that a task of this process moves."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final

import trio

from .._errors import Lagged
from ._log import Publication
from ._placing import await_place, find
from ._position import Since

if TYPE_CHECKING:
    from ._topic import Topic

# Reading publications lets others run after so many.
_READS_PER_CHECKPOINT: Final = 64


class Publications:
    """A reader of a topic inside the process.  Use it as a context manager.

    Attributes:
        cursor: the offset of the last publication read or passed over.
        skipped: how many left the log unread.
    """

    __slots__ = (
        "_history",
        "_is_placed",
        "_missed",
        "_open",
        "_reads",
        "_since",
        "_topic",
        "cursor",
        "skipped",
    )

    def __init__(self, topic: Topic, since: Since | None, history: int) -> None:
        self._topic = topic
        self._since = since
        self._history = history
        self._open = False
        # Whether it is known where it starts; with a broker, that may take a while.
        self._is_placed = False
        # How many are known to be missing since the topic began anew.
        self._missed: int | None = None
        self._reads = 0
        self.cursor = 0
        self.skipped = 0

    def __enter__(self) -> Publications:
        if not self._open:
            # Only from here on does the topic stay what it is.
            self._is_placed, self._missed = False, None
            self._enter()
            self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            self._exit()

    def _enter(self) -> None:
        """Be one of the topic's readers as soon as it is known where to start."""
        topic, since, history = self._topic, self._since, self._history
        topic._hub._use(topic)

        def placed() -> None:
            start = find(topic, since, history)
            self.cursor, self.skipped = start.position.offset, start.missing
            self._is_placed = True
            topic._readers[self] = None
            topic._news.changed()

        await_place(topic, self, since, history, placed)
        topic._hub._retention.settle(topic)

    def _exit(self) -> None:
        topic = self._topic
        topic._readers.pop(self, None)
        topic._leave_waiting(self)
        topic._settle()

    def _read(self) -> Publication | None:
        """The next publication, None if there is none yet.

        Raises:
            Lagged: it has left the log.
        """
        log, cursor = self._topic._log, self.cursor
        if cursor + 1 < log.first:
            raise Lagged(log.first - 1 - cursor)
        return log[cursor + 1] if cursor < log.head else None

    def _go_to(self, cursor: int, missing: int) -> None:
        """Start again behind *cursor*: the topic began anew."""
        self.cursor = cursor
        self.skipped += missing
        self._missed = missing

    def __aiter__(self) -> Publications:
        return self

    async def __anext__(self) -> Publication:
        """The next publication.

        Raises:
            Lagged: some left the log unread, or the topic began anew, where none need be known
                to be missing; the next call goes on behind that.
            trio.ClosedResourceError: outside of its `with` block.

        Cancellation: nothing is lost.  Checkpoint: a cancellation point always; lets others
        run whenever it waits and every 64 publications.
        """
        self._reads += 1
        if self._reads % _READS_PER_CHECKPOINT:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while True:
            if not self._open:
                raise trio.ClosedResourceError("publications are read inside their with block")
            if self._missed is not None:
                missed, self._missed = self._missed, None
                raise Lagged(missed)
            try:
                publication = self._read() if self._is_placed else None
            except Lagged as exc:
                self.cursor += exc.skipped
                self.skipped += exc.skipped
                raise
            if publication is not None:
                self.cursor = publication.offset
                return publication
            if self._topic._hub.closed:
                raise StopAsyncIteration
            await self._topic._news.wait_change()
