"""Changes wake everybody who waits, once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioweb._waitable import Waitable


async def test_a_change_wakes_all_who_wait_and_nobody_who_comes_later() -> None:
    waitable = Waitable()
    awake: list[int] = []

    async def wait(number: int) -> None:
        await waitable.wait_change()
        awake.append(number)
        await waitable.wait_change()
        awake.append(number)

    async with trio.open_nursery() as nursery:
        waitable.changed()
        for number in range(3):
            nursery.start_soon(wait, number)
        await wait_all_tasks_blocked()
        assert awake == []
        waitable.changed()
        waitable.changed()
        await wait_all_tasks_blocked()
        assert sorted(awake) == [0, 1, 2]
        waitable.changed()
    assert sorted(awake) == [0, 0, 1, 1, 2, 2]


async def test_who_was_cancelled_is_not_woken(autojump_clock: trio.testing.MockClock) -> None:
    waitable = Waitable()
    awake = trio.Event()

    async def wait() -> None:
        await waitable.wait_change()
        awake.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        with trio.move_on_after(1) as scope:
            await waitable.wait_change()
        assert scope.cancelled_caught
        assert not awake.is_set()
        # Would fail if the one that is gone were still there.
        waitable.changed()
    assert awake.is_set()


async def test_a_change_that_came_before_a_cancellation_is_not_lost() -> None:
    waitable = Waitable()
    with trio.CancelScope() as scope:

        async def change_and_cancel() -> None:
            waitable.changed()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change_and_cancel)
            await waitable.wait_change()
            was_woken = True
    assert was_woken


async def test_a_change_from_another_thread_is_refused_and_forgets_nobody() -> None:
    waitable = Waitable()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waitable.wait_change)
        nursery.start_soon(waitable.wait_change)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(waitable.changed)
        waitable.changed()
