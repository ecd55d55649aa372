"""What comes out of a block with background tasks, whichever of them fails.  Invariant 14."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from trioweb import ClosedLocally, ConnectionLost
from trioweb._nursery import open_hidden_nursery

Block = Callable[[], Awaitable[object]]


async def run(block: Block, *failures: BaseException) -> None:
    """Open a hidden nursery whose tasks fail at one time, and run *block* in it."""

    async def fail(failure: BaseException) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise failure

    async with open_hidden_nursery() as nursery:
        for failure in failures:
            nursery.start_soon(fail, failure)
        await block()


def raise_when_cancelled(error: BaseException) -> Block:
    async def block() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    return block


async def go_on_when_cancelled() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(1)


async def fail_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await raise_when_cancelled(ConnectionLost(1006, ""))()


@pytest.mark.parametrize(
    "block",
    [
        trio.sleep_forever,
        go_on_when_cancelled,
        fail_in_a_nursery,
        raise_when_cancelled(ClosedLocally(1001, "")),
    ],
)
@pytest.mark.parametrize(
    "failure", [RuntimeError("fault"), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
async def test_failure_of_a_background_task_is_not_replaced_by_what_it_led_to(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    block: Block,
    failure: BaseException,
) -> None:
    with pytest.raises(type(failure)) as caught:
        await run(block, failure)
    assert caught.value is failure
    assert failure.__context__ is None
    assert not caplog.records


async def test_failure_of_a_background_task_is_not_replaced_by_one_from_outside() -> None:
    failure = RuntimeError("fault")
    with trio.CancelScope() as scope:

        async def block() -> None:
            scope.cancel()
            await trio.sleep_forever()

        with pytest.raises(RuntimeError, match="fault"):
            await run(block, failure)


async def test_own_exception_comes_out_unchanged_and_what_it_displaces_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = ValueError("own")
    with pytest.raises(ValueError, match="own") as caught:
        await run(raise_when_cancelled(own), RuntimeError("fault"))
    assert caught.value is own
    assert caplog.records[0].exc_info is not None
    assert repr(caplog.records[0].exc_info[1]) == "RuntimeError('fault')"
    assert len(caplog.records) == 1


async def test_interrupt_wins_over_an_exception_of_the_block_which_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        await run(raise_when_cancelled(ValueError("own")), KeyboardInterrupt())
    assert "ValueError: own" in caplog.text


async def test_interrupt_of_the_block_wins_over_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        await run(raise_when_cancelled(own), RuntimeError("fault"), KeyboardInterrupt())
    assert caught.value is own
    assert "RuntimeError: fault" in caplog.text
    assert len(caplog.records) == 1


async def test_failures_of_several_tasks_come_out_together() -> None:
    with pytest.RaisesGroup(RuntimeError, KeyError):
        await run(trio.sleep_forever, RuntimeError("fault"), KeyError("fault"))


async def test_cancellation_from_outside_is_caught_outside() -> None:
    with trio.CancelScope() as scope:
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_tasks_are_cancelled_at_the_end_of_the_block() -> None:
    async with open_hidden_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
    assert not nursery.child_tasks
