"""Changes wake everybody who waits, once; what one can take wakes one."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from itertools import chain, combinations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioweb._waitable import Takers, Waitable


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


def some_of(numbers: range) -> Iterable[tuple[int, ...]]:
    return chain.from_iterable(combinations(numbers, count) for count in range(len(numbers) + 1))


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_whoever_of_those_who_wait_is_cancelled_the_others_are_woken(count: int) -> None:
    for cancelled in some_of(range(count)):
        waitable = Waitable()
        scopes = [trio.CancelScope() for _ in range(count + 1)]
        awake: list[int] = []

        async def wait(number: int) -> None:
            with scopes[number]:  # noqa: B023 - ends within the iteration
                await waitable.wait_change()  # noqa: B023
                awake.append(number)  # noqa: B023

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
            for number in cancelled:
                scopes[number].cancel()
            await wait_all_tasks_blocked()
            # Comes to what the others have left, which may be nobody.
            nursery.start_soon(wait, count)
            await wait_all_tasks_blocked()
            assert awake == []
            waitable.changed()
        assert sorted(awake) == sorted(set(range(count + 1)) - set(cancelled))


async def test_a_task_that_waits_alone_takes_no_set_and_several_leave_none_behind() -> None:
    waitable = Waitable()

    def has_set() -> bool:
        return any(isinstance(each, set) for each in gc.get_referents(waitable))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waitable.wait_change)
        await wait_all_tasks_blocked()
        assert not has_set()
        nursery.start_soon(waitable.wait_change)
        await wait_all_tasks_blocked()
        assert has_set()
        waitable.changed()
        assert not has_set()


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


@pytest.mark.parametrize("count", [1, 2])
async def test_a_change_from_another_thread_is_refused_and_forgets_nobody(count: int) -> None:
    waitable = Waitable()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(waitable.wait_change)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(waitable.changed)
        waitable.changed()


# One can take it.


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_whoever_of_the_takers_is_cancelled_the_others_are_woken_in_their_order(
    count: int,
) -> None:
    for cancelled in some_of(range(count)):
        takers = Takers()
        scopes = [trio.CancelScope() for _ in range(count + 1)]
        awake: list[int] = []

        async def wait(number: int) -> None:
            with scopes[number]:  # noqa: B023 - ends within the iteration
                await takers.wait_taking()  # noqa: B023
                awake.append(number)  # noqa: B023

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(wait, number)
                await wait_all_tasks_blocked()
            for number in cancelled:
                scopes[number].cancel()
            await wait_all_tasks_blocked()
            # Comes to what the others have left, which may be nobody.
            nursery.start_soon(wait, count)
            await wait_all_tasks_blocked()
            left = [number for number in range(count + 1) if number not in cancelled]
            for done in range(len(left)):
                assert awake == left[:done]
                takers.wake(1)
                await wait_all_tasks_blocked()
            assert awake == left
            takers.wake(1)


async def test_taker_that_waits_again_stands_behind_the_others() -> None:
    takers = Takers()
    awake: list[int] = []

    async def wait(number: int) -> None:
        while True:
            await takers.wait_taking()
            awake.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
        for _ in range(5):
            takers.wake(1)
            await wait_all_tasks_blocked()
        assert awake == [0, 1, 2, 0, 1]
        takers.wake(2)
        await wait_all_tasks_blocked()
        assert sorted(awake[5:]) == [0, 2]
        takers.wake_all()
        await wait_all_tasks_blocked()
        assert sorted(awake[7:]) == [0, 1, 2]
        nursery.cancel_scope.cancel()
    takers.wake_all()


@pytest.mark.parametrize("count", [1, 2])
async def test_waking_from_another_thread_is_refused_and_forgets_nobody(count: int) -> None:
    takers = Takers()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(takers.wait_taking)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(takers.wake_all)
        takers.wake_all()
