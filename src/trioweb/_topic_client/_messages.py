"""What a server sends outside of all topics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import Lagged
from .._waitable import Waitable


class ServerMessages:
    """A stream of what the server has sent outside of all topics, from when it was made on.

    Iterating ends with the client: by GaveUp if that gave up.
    """

    __slots__ = ("__weakref__", "_end", "_items", "_max_messages", "_news", "_skipped")

    def __init__(self, max_messages: int) -> None:
        self._news = Waitable()
        self._max_messages = max_messages
        self._items: deque[Any] = deque()
        self._skipped = 0
        self._end: Callable[[], Exception] | None = None

    def __aiter__(self) -> ServerMessages:
        return self

    async def __anext__(self) -> Any:
        """Wait for the next message.

        Raises:
            Lagged: the oldest were dropped, since nobody read them; the next call goes on.
            GaveUp: the client gave up.
            StopAsyncIteration: it is closed.

        Cancellation: a cancelled call has taken nothing.  Checkpoint: a cancellation point
        always; others run whenever it waits.
        """
        if self._items:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not self._items:
            if self._end is not None:
                raise self._end()
            await self._news.wait_change()
        if self._skipped:
            skipped, self._skipped = self._skipped, 0
            raise Lagged(skipped, self._max_messages)
        return self._items.popleft()

    @enable_ki_protection
    def _put(self, item: Any) -> None:
        if len(self._items) >= self._max_messages:
            self._items.popleft()
            self._skipped += 1
        self._items.append(item)
        self._news.changed()

    def _finish(self, end: Callable[[], Exception]) -> None:
        if self._end is None:
            self._end = end
        self._news.changed()
