"""Thousands who enter and leave: nothing that has to do with all of them takes one turn."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing

from trioweb import _engine_presence as engine_presence
from trioweb import open_hub
from trioweb._topics import _mirror, _node_presence, _presence_updates, _pump
from trioweb._topics._presence import Member
from trioweb.testing import MemoryBroker

_MEMBERS = 4000
# Of the slowest turn; of each member there are some.
_MOST_LINES = 3500
_KNOWING = (engine_presence, _mirror, _node_presence, _presence_updates)
_HERE = {each.__name__ for each in _KNOWING}


class Lines(trio.abc.Instrument):
    """Counts the lines that run in one turn of a task, of what knows of all members.

    Attributes:
        most: in any turn; `where` says what that ended with.
    """

    def __init__(self) -> None:
        self.most = 0
        self.where = ""
        self._count = 0
        self._last = ""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._count > self.most:
            self.most, self.where = self._count, self._last
        self._count = 0

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.line if frame.f_globals.get("__name__") in _HERE else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._count += 1
        self._last = frame.f_code.co_qualname
        return self.line


@contextmanager
def counted() -> Generator[Lines]:
    lines = Lines()
    before = sys.gettrace()
    trio.lowlevel.add_instrument(lines)
    sys.settrace(lines.call)
    try:
        yield lines
    finally:
        sys.settrace(before)
        trio.lowlevel.remove_instrument(lines)


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_thousands_enter_and_leave_some_at_a_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12."""
    monkeypatch.setattr(engine_presence, "_PER_PAGE", 64)
    monkeypatch.setattr(_pump, "_TURN", 1024)
    broker = MemoryBroker()
    async with open_hub(broker=broker) as other:
        mirrored = other.topic("news")
        with mirrored.presence_changes():
            async with open_hub(broker=broker) as hub:
                for number in range(_MEMBERS):
                    hub._presence.enter("news", f"{number}", Member("", b""))
                with counted() as lines:
                    await trio.sleep(10)
                    assert other._presence.size("news") == _MEMBERS
                    # All are entered anew, as under each new lease.
                    broker.cut()
                    await trio.sleep(10)
                    assert other._presence.size("news") == _MEMBERS
                    # While nobody can be told, none is there.
                    broker.refuse("out of memory")
                    broker.restart(lost=None)
                    await trio.sleep(10)
                    assert other._presence.size("news") == 0
                    broker.refuse(None)
                    await trio.sleep(10)
                    assert other._presence.size("news") == _MEMBERS
                    await hub._presence.flush()  # type: ignore[attr-defined]
                    await trio.sleep(1)
                    assert other._presence.size("news") == 0
        assert lines.most < _MOST_LINES, (lines.most, lines.where)


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_a_node_that_died_with_thousands_is_cleared_up_some_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = MemoryBroker()
    async with open_hub(broker=broker) as other:
        mirrored = other.topic("news")
        with mirrored.presence_changes():
            with trio.CancelScope() as scope:
                async with open_hub(broker=broker) as hub:
                    for number in range(_MEMBERS):
                        hub._presence.enter("news", f"{number}", Member("", b""))
                    await trio.sleep(10)
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert other._presence.size("news") == _MEMBERS
            with counted() as lines:
                await trio.sleep(30)
                assert other._presence.size("news") == 0
    assert lines.most < _MOST_LINES, (lines.most, lines.where)
