"""One thing to wait for: anything about a client has changed."""

from __future__ import annotations

import trio

from .._link import Link


class Signal:
    """Wakes all who wait for a client; they look again at what they wait for.

    During a session that is the link's own event, as most of what changes is there.

    Attributes:
        link: the link of the session, None between sessions.
    """

    def __init__(self) -> None:
        self.link: Link | None = None
        self._event: trio.Event | None = None

    async def wait(self) -> None:
        if self.link is not None:
            await self.link.wait_change()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()

    def changed(self) -> None:
        if self.link is not None:
            self.link.changed()
        if self._event is not None:
            self._event.set()
            self._event = None

    def set_link(self, link: Link | None) -> None:
        """A session begins or ends."""
        self.changed()
        self.link = link
