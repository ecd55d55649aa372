"""A reader: a cursor into a topic that a task of this process moves."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final

import trio

from .._errors import Lagged
from ._log import Publication
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

    __slots__ = ("_history", "_open", "_reads", "_since", "_topic", "cursor", "skipped")

    def __init__(self, topic: Topic, since: Since | None, history: int) -> None:
        self._topic = topic
        self._since = since
        self._history = history
        self._open = False
        self._reads = 0
        self.cursor = 0
        self.skipped = 0

    def __enter__(self) -> Publications:
        if not self._open:
            # Only from here on does the topic stay what it is.
            self.cursor, self.skipped = self._topic._enter(self, self._since, self._history)
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
            self._topic._exit(self)

    def __aiter__(self) -> Publications:
        return self

    async def __anext__(self) -> Publication:
        """The next publication.

        Raises:
            Lagged: some left the log unread; the next call goes on behind them.
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
            try:
                publication = self._topic._read(self.cursor)
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
