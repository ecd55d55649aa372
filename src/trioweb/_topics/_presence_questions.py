"""What an engine is asked about who is in a topic, where somebody waits for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._waitable import Waitable
from ._commands import Answer, Command, Count, Counted, Members, Present
from ._presence import Member, PresenceCount

if TYPE_CHECKING:
    from ._engine_link import EngineLink


class PresenceQuestions:
    """The questions of one node.  Each is about one connection: if that is lost, there is no
    answer, and whoever asks may ask again on the next one."""

    def __init__(self) -> None:
        self._link: EngineLink | None = None
        self._is_closed = False
        self._waiting: dict[Waitable, None] = {}

    def connected(self, link: EngineLink) -> None:
        self._link = link

    def lost(self) -> None:
        self._link = None
        self._wake_all()

    def close(self) -> None:
        """Whoever waits is told that the hub is closed."""
        self._is_closed = True
        self._wake_all()

    def _wake_all(self) -> None:
        for news in tuple(self._waiting):
            news.changed()

    async def members(self, link: EngineLink, topic: str) -> dict[str, Member] | None:
        """Who is in *topic*; None if *link* is lost before."""
        found: dict[str, Member] = {}
        cursor = "0"
        # What one connection has begun to tell, another engine may not know how to go on with.
        while (answer := await self.ask(link, Members(topic, cursor))) is not None:
            assert isinstance(answer, Present)
            found.update((key, Member(user, info)) for key, user, info in answer.members)
            cursor = answer.cursor
            if cursor == "0":
                return found
        return None

    async def count(self, link: EngineLink, topic: str) -> PresenceCount | None:
        """How many are in *topic*; None if *link* is lost before."""
        answer = await self.ask(link, Count(topic))
        if answer is None:
            return None
        assert isinstance(answer, Counted)
        return PresenceCount(answer.members, answer.users)

    async def ask(self, link: EngineLink, command: Command) -> Answer | None:
        """The answer to *command*; None if *link* is lost before.

        Raises:
            trio.ClosedResourceError: the hub is closed.

        Cancellation: the engine does *command* all the same.  Checkpoint: not always.
        """
        answers: list[Answer] = []
        news = Waitable()

        def answered(answer: Answer) -> None:
            answers.append(answer)
            news.changed()

        link.send(command, answered)
        self._waiting[news] = None
        try:
            while not answers and self._link is link:
                if self._is_closed:
                    raise trio.ClosedResourceError("the hub is closed")
                await news.wait_change()
        finally:
            del self._waiting[news]
        return answers[0] if answers else None
