"""The supervisor, in virtual time: its workers are tasks that behave as they are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trioweb import BrokerPolicy, open_hub
from trioweb._workers import (
    StartFailed,
    Supervisor,
    Switchboard,
    WorkerEnd,
    open_switchboard,
    open_worker,
)
from trioweb.testing import stream_pair


class Process:
    """A worker that is a task."""

    def __init__(self, place: int, pid: int) -> None:
        self.place = place
        self.pid = pid
        self.stream, self._there = stream_pair()
        self.status: int | None = None
        self.end: WorkerEnd | None = None
        self.orders: list[tuple[int, bool]] = []
        self.since = trio.current_time()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        self.exit(-9)

    def exit(self, status: int) -> None:
        """End, at once."""
        if self.status is None:
            self.status = status
            self._ended.set()
            self._scope.cancel()

    async def run(self, behave: Callable[[Process, WorkerEnd], Awaitable[None]]) -> None:
        with self._scope:
            async with open_worker(self._there, BrokerPolicy()) as self.end:
                await behave(self, self.end)
        self.exit(0)


async def serve(process: Process, end: WorkerEnd) -> None:
    """What a worker does that has nothing to complain of."""

    async def tell(with_page: bool) -> tuple[dict[str, Any], str]:
        head = "# HELP trioweb_a A.\n# TYPE trioweb_a counter\n"
        page = f"{head}trioweb_a {process.pid}\n"
        return {"connections": 1, "opened": process.pid}, page if with_page else ""

    end.tell = tell
    await trio.sleep(0.5)
    end.ready()
    process.orders.append(await end.wait_order())
    await trio.sleep(1)
    await end.say_farewell()


class World:
    """A supervisor, and the processes that it has started.

    Attributes:
        behaviours: of the next processes, in order; behind them all `serve`.
        seconds_to_start: how long it takes until there is a process.
    """

    def __init__(self, count: int, nursery: trio.Nursery, **options: Any) -> None:
        self.processes: list[Process] = []
        self.behaviours: list[Callable[[Process, WorkerEnd], Awaitable[None]]] = []
        self.nursery = nursery
        self.seconds_to_start = 0.0
        self.supervisor = Supervisor(count, self.start, grace=8, **options)

    async def start(self, place: int) -> Process:
        await trio.sleep(self.seconds_to_start)
        process = Process(place, len(self.processes) + 1)
        self.processes.append(process)
        behave = self.behaviours.pop(0) if self.behaviours else serve
        self.nursery.start_soon(process.run, behave)
        return process

    @property
    def running(self) -> list[int]:
        return [process.pid for process in self.processes if process.status is None]


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> World:
    return World(2, nursery, switchboard=Switchboard(max_topics=100, max_bytes=2**20))


@asynccontextmanager
async def run(world: World) -> AsyncGenerator[trio.Event]:
    """Run the supervisor; the event is set when it has returned."""
    ended = trio.Event()

    async def supervise(task_status: trio.TaskStatus[None]) -> None:
        await world.supervisor.run(task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(supervise)
        yield ended
        nursery.cancel_scope.cancel()


async def test_all_workers_serve_once_it_has_started(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    before = trio.current_time()
    async with run(world):
        assert [process.place for process in world.processes] == [0, 1]
        assert world.supervisor.serving == 2
        assert trio.current_time() == pytest.approx(before + 0.5)
    assert [process.status for process in world.processes] == [-9, -9]


async def test_first_worker_that_does_not_come_to_serve_ends_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def fail(process: Process, end: WorkerEnd) -> None:
        await trio.sleep(1)
        process.exit(2)

    world.behaviours = [serve, fail]
    with pytest.raises(StartFailed) as caught:
        await world.supervisor.run()
    assert caught.value.status == 2
    assert world.running == []


async def test_worker_that_dies_is_replaced_at_once_and_then_less_and_less_often(
    world: World, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def die(process: Process, end: WorkerEnd) -> None:
        end.ready()
        await trio.sleep(0.1)
        process.exit(3)

    async with run(world):
        await trio.sleep(100)
        world.behaviours = [die] * 12
        before = trio.current_time()
        world.processes[0].kill()
        await trio.sleep(0.01)
        assert len(world.processes) == 3
        await trio.sleep(1000)
        starts = [process.since - before for process in world.processes[2:]]
        assert len(starts) == 13
        waits = [b - a - 0.1 for a, b in pairwise(starts)]
        bounds = [min(20, 0.5 * 2**number) for number in range(12)]
        assert all(wait <= bound + 0.001 for wait, bound in zip(waits, bounds, strict=True))
        assert max(waits) > 1
        assert [process.place for process in world.processes[2:]] == [0] * 13
        assert world.supervisor.restarts == 13
        assert world.running == [2, 15]
        # One that was up for long is replaced at once again.
        world.processes[-1].kill()
        await trio.sleep(0.01)
        assert len(world.processes) == 16
    lines = [record.getMessage() for record in caplog.records]
    assert "worker 1 (process 1) has ended: killed by SIGKILL" in lines
    assert "worker 1 (process 3) has ended: exit status 3" in lines


async def test_renewal_has_each_new_worker_serve_before_the_old_one_ends(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        served: list[int] = []

        async def watch() -> None:
            while True:
                served.append(world.supervisor.serving)
                await world.supervisor.changed.wait_change()

        world.nursery.start_soon(watch)
        await world.supervisor.renew()
        assert world.running == [3, 4]
        assert [process.place for process in world.processes] == [0, 1, 0, 1]
        assert [process.orders for process in world.processes[:2]] == [[(1012, True)]] * 2
        assert [process.status for process in world.processes[:2]] == [0, 0]
        assert min(served) == 2 and max(served) == 3
        # The one behind the other: never two more than there are places.
        assert world.processes[3].since > world.processes[2].since + 1
        assert world.supervisor.restarts == 0


async def test_renewals_that_are_asked_for_meanwhile_are_one_more(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        world.nursery.start_soon(world.supervisor.renew)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(world.supervisor.renew)
        assert world.running == [5, 6]


async def test_new_worker_that_does_not_serve_leaves_the_old_ones(
    world: World, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(process: Process, end: WorkerEnd) -> None:
        process.exit(2)

    async def hang(process: Process, end: WorkerEnd) -> None:
        await trio.sleep_forever()

    async with run(world):
        for behave in (fail, hang):
            world.behaviours = [behave]
            await world.supervisor.renew()
            assert world.running == [1, 2]
        assert [process.status for process in world.processes[2:]] == [2, -9]
        assert not world.processes[0].orders
    assert caplog.messages.count("the new worker has not come to serve: the old ones stay") == 2


async def test_old_worker_that_dies_while_its_successor_starts_has_one_in_the_end(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        world.nursery.start_soon(world.supervisor.renew)
        await trio.sleep(0.2)
        # So that the one is there before the other has even been started.
        world.seconds_to_start = 0.5
        world.processes[0].exit(1)
        await trio.sleep(100)
        assert len(world.running) == 2
        assert world.supervisor.serving == 2
        places = {process.place for process in world.processes if process.status is None}
        assert places == {0, 1}


async def test_worker_that_does_not_end_is_killed(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def stay(process: Process, end: WorkerEnd) -> None:
        end.ready()
        await trio.sleep_forever()

    world.behaviours = [stay]
    async with run(world) as ended:
        before = trio.current_time()
        world.supervisor.stop(1001)
        await ended.wait()
        assert 8 <= trio.current_time() - before < 9
        assert [process.status for process in world.processes] == [-9, 0]
        assert world.processes[1].orders == [(1001, False)]


async def test_worker_that_is_deaf_is_killed_and_replaced(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def deafen(process: Process, end: WorkerEnd) -> None:
        end.ready()
        await trio.sleep(1)
        await process._there.aclose()
        await trio.sleep_forever()

    world.behaviours = [deafen]
    async with run(world):
        await trio.sleep(10)
        assert [process.status for process in world.processes] == [-9, None, None]


async def test_worker_that_stands_still_is_killed_and_replaced(
    world: World, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(world):
        await trio.sleep(1000)
        assert world.running == [1, 2]
        stills = trio.current_time()
        end = world.processes[1].end
        assert end is not None

        async def hang(with_page: bool) -> tuple[dict[str, Any], str]:
            await trio.sleep_forever()
            raise AssertionError

        end.tell = hang
        while world.running == [1, 2]:
            await world.supervisor.changed.wait_change()
        assert 25 <= trio.current_time() - stills <= 45
        await trio.sleep(1)
        assert world.running == [1, 3]
    assert "worker 2 (process 2) does not answer for 20 seconds" in caplog.messages


async def test_worker_that_answers_late_stays(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        end = world.processes[1].end
        assert end is not None

        async def dawdle(with_page: bool) -> tuple[dict[str, Any], str]:
            await trio.sleep(22)
            return {}, ""

        end.tell = dawdle
        await trio.sleep(60)
        # It has answered the first question, at least, when it is asked for the last time.
        assert world.running == [1, 2]


async def test_stop_ends_those_that_are_only_starting(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world) as ended:
        world.nursery.start_soon(world.supervisor.renew)
        await trio.sleep(0.1)
        assert len(world.processes) == 3
        before = trio.current_time()
        world.supervisor.stop(1012)
        await ended.wait()
        assert trio.current_time() - before < 2
        assert world.running == []
        assert len(world.processes) == 3


async def test_numbers_are_those_of_all_and_outlive_who_has_counted_them(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        assert await world.supervisor.statistics() == {
            "workers": 2,
            "connections": 2,
            "opened": 3,
        }
        assert "trioweb_a 3\n" in await world.supervisor.metrics()
        # One dies, and tells nothing any more; it is known by what it has told before.
        world.processes[0].kill()
        await trio.sleep(5)
        told = await world.supervisor.statistics()
        assert told == {"workers": 2, "connections": 2, "opened": 1 + 2 + 3}
        page = await world.supervisor.metrics()
        assert "trioweb_a 6\n" in page
        assert "trioweb_workers 2\n" in page
        assert "trioweb_worker_restarts_total 1\n" in page
        # Those that end softly tell their last.
        await world.supervisor.renew()
        assert (await world.supervisor.statistics())["opened"] == 1 + 2 + 3 + 4 + 5


async def test_worker_that_does_not_tell_its_numbers_is_counted_as_before(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        await world.supervisor.statistics()
        end = world.processes[0].end
        assert end is not None

        async def hang(with_page: bool) -> tuple[dict[str, Any], str]:
            await trio.sleep_forever()
            raise AssertionError

        end.tell = hang
        before = trio.current_time()
        assert (await world.supervisor.statistics())["opened"] == 3
        assert trio.current_time() - before == pytest.approx(2)


async def test_worker_gets_the_numbers_of_all(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        end = world.processes[1].end
        assert end is not None
        assert (await end.ask_all())["opened"] == 3


async def test_worker_has_the_others_do_something_and_hears_what_came_of_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        first, second = (process.end for process in world.processes)
        assert first is not None and second is not None

        async def double(what: str, data: Any) -> Any:
            await trio.sleep(1)
            return [what, 2 * data]

        assert await first.ask_others("double", 4) == [(2, None)], "it knows nothing to do"
        second.do = double
        answers = []

        async def ask(number: int) -> None:
            answers.append((number, await first.ask_others("double", number)))

        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
        assert trio.current_time() - before == pytest.approx(1)
        assert sorted(answers) == [(number, [(2, ["double", 2 * number])]) for number in range(5)]


async def test_worker_that_does_not_answer_others_or_cannot_holds_them_up_for_two_seconds(
    world: World, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world):
        first, second = (process.end for process in world.processes)
        assert first is not None and second is not None

        async def be_late(what: str, data: Any) -> Any:
            await trio.sleep(3)
            return "late"

        async def fail(what: str, data: Any) -> Any:
            raise ValueError(what)

        second.do = be_late
        before = trio.current_time()
        assert await first.ask_others("anything", {}) == [(2, None)]
        assert trio.current_time() - before == pytest.approx(2)
        second.do = fail
        assert await first.ask_others("anything", {}) == [(2, None)]
        assert "error while doing 'anything' for another worker" in caplog.text
        await trio.sleep(5)
        assert [worker.answers for worker in world.supervisor._workers] == [{}, {}]
        assert world.running == [1, 2]


async def test_hubs_of_workers_have_the_same_topics_and_positions_outlive_them(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    hubs = []

    async def join(process: Process, end: WorkerEnd) -> None:
        async with open_hub(broker=end.broker) as hub:
            hubs.append(hub)
            await serve(process, end)

    world.behaviours = [join] * 4
    async with run(world):
        first = await hubs[0].topic("news").publish_confirmed("a")
        second = await hubs[1].topic("news").publish_confirmed("b")
        assert (second.epoch, second.offset) == (first.epoch, 2)
        await world.supervisor.renew()
        assert world.running == [3, 4]
        topic = hubs[3].topic("news")
        await topic.load(since=first)
        recovery = topic.recovery(first)
        assert (recovery.recovered, recovery.missing) == (True, 0)
        assert [each.message for each in topic.history(1)] == ["b"]


async def test_cancelling_it_leaves_no_process(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(0.2):
        await world.supervisor.run()
    assert world.running == []


async def test_first_worker_that_takes_too_long_is_given_up(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def hang(process: Process, end: WorkerEnd) -> None:
        await trio.sleep_forever()

    world.behaviours = [hang]
    before = trio.current_time()
    with pytest.raises(StartFailed):
        await world.supervisor.run()
    assert trio.current_time() - before == pytest.approx(60)


async def test_numbers_of_the_store_are_on_the_page_of_all_workers(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    store = tmp_path / "topics.db"
    async with open_switchboard(max_topics=100, max_bytes=2**20, store=store) as switchboard:
        world = World(2, nursery, switchboard=switchboard)
        async with run(world):
            page = await world.supervisor.metrics()
    assert "trioweb_store_failing 0\n" in page
    assert f"trioweb_store_waiting_bytes_limit {2**18}\n" in page
