"""One thing to wait for: anything about a client has changed."""

from __future__ import annotations

from .._link import Link
from .._waitable import Waitable


class Signal(Waitable):
    """Wakes all who wait for a client; they look again at what they wait for.

    During a session that is the link's own change, as most of what changes is there.

    Attributes:
        link: the link of the session, None between sessions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.link: Link | None = None

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

    def set_link(self, link: Link | None) -> None:
        """A session begins or ends."""
        self.changed()
        self.link = link
