"""The backlog: what is queued for one peer, its order, and the task that writes it.

Frames leave in the order in which they were put.  Answers leave between any two of them, and of
each kind only the latest waits.

NOTE: What was begun is written to its end, or nothing after it is.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._logs import Named
from .._wire._wire import Account, Wire
from ._contain import describe


class Keeper(Account, Protocol):
    """Whoever has a backlog."""

    @property
    def wire(self) -> Wire:
        """Where it leaves; asked for anew for each frame."""

    @property
    def owner(self) -> Named | None:
        """Whom the records of the log concern."""

    def break_off(self, reason: str, /) -> None:
        """Nothing can be written any more."""

    def on_stalled(self) -> None:
        """That is because the peer took nothing for the write timeout."""

    def on_drained(self) -> None:
        """The task is over: all is written, or nothing can be."""


class Backlog:
    """What waits to be written.

    Attributes:
        frames: whole ones, and in front at most one that was begun.
        drained: the end of the task that writes them; None while there is none.
        is_cut: of the frame with which that task began, not all is written yet.
    """

    __slots__ = ("_answers", "drained", "frames", "is_cut")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.drained: trio.Event | None = None
        self.is_cut = False
        # Made when first needed.
        self._answers: dict[object, bytes] | None = None

    def answer(self, key: object, frame: bytes) -> None:
        """Keep an answer, in the place of the one of its kind (*key*) that waits."""
        if self._answers is None:
            self._answers = {}
        self._answers[key] = frame

    def drop_answers(self) -> None:
        """Answers that wait are not needed any more."""
        self._answers = None

    def lose(self) -> None:
        """Nothing of it can be written any more."""
        self.frames.clear()
        self._answers = None

    def begin(self) -> bool:
        """Have a task from now on; return whether there was none, so that `drain` is to be one."""
        if self.drained is not None:
            return False
        self.drained = trio.Event()
        self.is_cut = True
        return True

    # Who waits for its end hears of it whatever happens.
    @enable_ki_protection
    async def drain(self, keeper: Keeper) -> None:
        """Write what there is, and what comes meanwhile, until nothing is left."""
        assert self.drained is not None
        try:
            await self._write(keeper)
        except trio.TooSlowError:
            keeper.break_off("write timeout")
            keeper.on_stalled()
        except Exception as exc:
            keeper.break_off(describe(exc, keeper.owner))
        except BaseException:
            # What is left of a frame is gone, so nothing may follow it.
            keeper.break_off("writing was cancelled")
            raise
        finally:
            self.drained.set()
            self.drained = None
            keeper.on_drained()

    async def _write(self, keeper: Keeper) -> None:
        # The front may be the rest of a frame, so it goes before answers, which then do not wait
        # behind what a slow peer has yet to read.
        # Even if there is none, the wire may have something of its own, at the end, too.
        while True:
            await keeper.wire.write(self.frames.popleft() if self.frames else b"", keeper)
            self.is_cut = False
            while self._answers:
                answer = self._answers.pop(next(iter(self._answers)))
                keeper.grew(len(answer))
                await keeper.wire.write(answer, keeper)
            if not self.frames and not keeper.wire.has_more:
                return
