"""A worker, as its supervisor has it: its process, its end of the pipe, and what it said last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import trio

from ._parent_end import ParentEnd

if TYPE_CHECKING:
    from ._supervisor import Supervisor


class WorkerProcess(Protocol):
    """The process of a worker.

    Attributes:
        stream: leads to it.
    """

    @property
    def pid(self) -> int: ...

    @property
    def stream(self) -> trio.abc.Stream: ...

    async def wait(self) -> int:
        """Wait for its end; its exit status, or minus the number of a signal."""

    def kill(self) -> None:
        """End it at once."""


class Worker:
    """One worker, as its supervisor has it.

    Attributes:
        was_heard: all that it said was.
        status: its exit status, once it has ended.
        told: the number of the last question for its numbers that it has answered.
        answers: to what it was asked to do, by the number of the question.
    """

    def __init__(self, number: int, process: WorkerProcess, supervisor: Supervisor) -> None:
        self.number = number
        self.process = process
        self.end = ParentEnd(process.stream, supervisor.switchboard, self)
        self.is_serving = False
        self.is_leaving = trio.Event()
        self.was_heard = trio.Event()
        self.status: int | None = None
        self.since = trio.current_time()
        self.statistics: dict[str, Any] = {}
        self.page = ""
        self.told = 0
        self.answers: dict[int, Any] = {}
        self._supervisor = supervisor

    def leave(self, code: int, *, handover: bool) -> None:
        """Have it end softly."""
        if not self.is_leaving.is_set():
            self.is_leaving.set()
            self._supervisor.changed.changed()
            self.end.drain(code, handover=handover)

    # What it says; see `Listener`.

    def ready(self) -> None:
        self.is_serving = True
        self._supervisor.changed.changed()

    def numbers(self, question: int, statistics: dict[str, Any], page: str) -> None:
        self.statistics = statistics
        self.page = page or self.page
        self.told = max(self.told, question)
        self._supervisor.changed.changed()

    def asks_all(self, question: int) -> None:
        self._supervisor.answer(self, question)

    def asks_others(self, question: int, what: str, data: Any) -> None:
        self._supervisor.have_others_do(self, question, what, data)

    def done(self, question: int, answer: Any) -> None:
        if self._supervisor.awaits(question):
            self.answers[question] = answer
            self._supervisor.changed.changed()

    def __str__(self) -> str:
        return f"worker {self.number + 1} (process {self.process.pid})"
