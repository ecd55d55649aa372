"""One thing to wait for: anything about a client has changed."""

from __future__ import annotations

from collections.abc import Callable

from .._link import Link
from .._waitable import Waitable


class Signal(Waitable):
    """Wakes all who wait for a client; they look again at what they wait for.

    During a session that is the link's own change, as most of what changes is there.

    Attributes:
        link: the link of the session, None between sessions.
    """

    __slots__ = ("_wake", "link")

    def __init__(self) -> None:
        super().__init__()
        self.link: Link | None = None
        # Wakes the session's task.
        self._wake: Callable[[], None] | None = None

    async def wait_change(self) -> None:
        if self.link is None:
            await super().wait_change()
        else:
            await self.link.wait_change()

    def changed(self) -> None:
        if self.link is None:
            super().changed()
        else:
            self.link.changed()
            if self._wake is not None:
                self._wake()

    def set_link(self, link: Link | None, wake: Callable[[], None] | None = None) -> None:
        """A session begins or ends.

        Args:
            wake: wakes the session's task, which may not wait for the link.
        """
        self.changed()
        self.link = link
        self._wake = wake
