"""The world of a run: servers with a topic, clients that talk to them, and what happens to both.

A server publishes each message that it receives in its topic; a client connects to any of the
servers, subscribes where it left off, and sends.  `live` is a run from its beginning to its end.

Rules kept here: programs use trioweb as its users do; what they see goes to `checks`, and nothing
is decided here about right and wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

import trio
import trio.testing

import trioweb
from trioweb import (
    Connection,
    Lost,
    Opened,
    Outbox,
    Publication,
    State,
    Topic,
    Undelivered,
)
from trioweb.testing import Network, NetworkListener, NetworkStream

from .checks import Checks, Life, Visit
from .orderly import OrderlyBackend
from .scenario import (
    GRACE,
    RESTART_PAUSE,
    RETRY,
    SLACK,
    SPREAD,
    Person,
    Scenario,
    Trouble,
)


class Poison(Exception):
    """What a handler raises at a message that it cannot bear."""


class Tap(trio.abc.HalfCloseableStream):
    """A stream that tells how long its reader hears nothing.

    Attributes:
        hindered_at: when its reader was last seen not to read, or its writer to wait.
    """

    def __init__(self, stream: NetworkStream, heard_nothing: Callable[[float], None]) -> None:
        self.socket = stream.socket
        self.hindered_at = trio.current_time()
        self.on_close: Callable[[], None] = lambda: None
        self._stream = stream
        self._heard_nothing = heard_nothing
        self._reading = False
        self._took_at = self._read_at = trio.current_time()
        self._writing_since: float | None = None

    def is_hindered_since(self, moment: float) -> bool:
        return self.hindered_at >= moment or not self._reading or self._writing_since is not None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        begun = trio.current_time()
        if begun > self._read_at:
            self.hindered_at = begun
        self._reading = True
        try:
            return await self._stream.receive_some(max_bytes)
        finally:
            self._reading = False
            now = self._read_at = trio.current_time()
            self._heard_nothing(now - max(begun, self._took_at))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        begun = self._writing_since = trio.current_time()
        await self._stream.send_all(data)
        # Otherwise it is hindered for good.
        self._writing_since = None
        # A peer that makes room is alive, too.
        if trio.current_time() > begun:
            self.hindered_at = self._took_at = trio.current_time()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self.on_close()
        self.on_close = lambda: None
        await self._stream.aclose()


class TappedListener(trio.abc.Listener[Tap]):
    def __init__(self, listener: NetworkListener, heard_nothing: Callable[[float], None]) -> None:
        self.socket = listener.socket
        self._listener = listener
        self._heard_nothing = heard_nothing

    async def accept(self) -> Tap:
        return Tap(await self._listener.accept(), self._heard_nothing)

    async def aclose(self) -> None:
        await self._listener.aclose()


class Backend:
    """The program of one server."""

    def __init__(self, world: World, name: str) -> None:
        self.server: trioweb.Server | None = None
        self.topic: Topic | None = None
        self.sick = False
        self._world = world
        self._host = world.network.host(name)
        self._stop = trio.Event()

    async def run(self) -> None:
        """Run the program, and after each crash and each restart again."""
        while not self._world.over:
            await self._host.run(self._program)
            await trio.sleep(RESTART_PAUSE)

    def stop(self) -> None:
        """Have the server drained, after which its program ends."""
        self._stop.set()

    async def _program(self) -> None:
        scenario, checks = self._world.scenario, self._world.checks
        self._stop = trio.Event()
        async with trioweb.open_hub() as hub:
            self.topic = hub.topic("news", retain=scenario.retain, slow=scenario.slow)
            listener = TappedListener(
                self._host.listen(80), partial(checks.silent, f"server {self._host.name}")
            )
            ended = trio.Event()

            async def serve(task_status: trio.TaskStatus[trioweb.Server]) -> None:
                await trioweb.serve_listeners(
                    self._handle,
                    [listener],
                    heartbeat=scenario.heartbeat,
                    limits=scenario.limits,
                    hub=hub,
                    task_status=task_status,
                )
                ended.set()

            try:
                async with trio.open_nursery() as nursery:
                    self.server = await nursery.start(serve)
                    await self._stop.wait()
                    deadline = GRACE + 0.1
                    with checks.within(deadline, 6, "a drain"):
                        await self.server.drain(grace=GRACE, spread=SPREAD)
                        checks.reached["drains"] += not self._world.over
                    with checks.within(0.1, 6, "the end of a drained server"):
                        await ended.wait()
            finally:
                self.server = None
                checks.reached["evictions"] += hub.statistics().evicted
                checks.reached["skips"] += hub.statistics().skipped > 0

    async def _handle(self, connection: Connection) -> None:
        world, topic = self._world, self.topic
        assert topic is not None
        visit = world.visit_of(connection)
        visit.connection = connection
        if self.sick:
            return
        if not visit.life.subscribes:
            await self._listen(connection, visit, topic)
            return
        head = topic.head
        with topic.subscribe(connection, since=visit.since, encode=self._encode) as subscription:
            world.checks.subscribed(visit, topic, subscription, head)
            await self._listen(connection, visit, topic)

    async def _listen(self, connection: Connection, visit: Visit, topic: Topic) -> None:
        checks, scenario = self._world.checks, self._world.scenario
        try:
            async for message in connection:
                text = str(message)
                is_new = checks.received(visit, text)
                if is_new and text.endswith("poison"):
                    if connection.state is State.OPEN:
                        self._world.poisoned.append(connection)
                    raise Poison
                offset = topic.publish(text, skip=None if scenario.echo else connection)
                checks.published(topic, offset, text, None if scenario.echo else visit)
                if scenario.nap:
                    await trio.sleep(scenario.nap)
        finally:
            # What the endpoint had read ahead has been received, and may have been confirmed;
            # that its program ends here is nothing that a WebSocket could mend.
            for message in connection.link.inbox:
                checks.received(visit, str(message))
            connection.link.inbox.clear()

    def _encode(self, publication: Publication) -> str:
        assert self.topic is not None
        return f"{self.topic.epoch}|{publication.offset}|{publication.message!s}"


class Talker:
    """One person's program: a client at a time."""

    def __init__(self, world: World, person: Person) -> None:
        self.name = person.name
        self.client: trioweb.Client | None = None
        self.life = Life("", person, None)
        self.is_idle = True
        self.poison = False
        self._life_scope = trio.CancelScope()
        self.policy = Outbox(
            confirm=person.confirm,
            max_messages=person.outbox,
            max_resends=world.scenario.max_resends,
        )
        self._world = world
        self._person = person
        self._random = Random(f"{world.scenario.seed} {person.name}")
        self._host = world.network.host(person.name)
        self._stay = trio.CancelScope()
        self._lives = 0
        self._tap: Tap | None = None

    def is_caught_up(self) -> bool:
        """Whether it is connected, and has sent and received all that there is."""
        client = self.client
        if client is None or client.state is not State.OPEN:
            return False
        if client.buffered_amount or not self.is_idle:
            return False
        return not self._person.subscribes or self._world.checks.is_caught_up(self.life.opened[-1])

    async def run(self) -> None:
        """Live, and after each end before it is time, again."""
        checks = self._world.checks
        while True:
            self._lives += 1
            name = f"{self.name}.{self._lives}"
            self.life = checks.begin(name, self._person, self.life.cursor)
            with trio.CancelScope() as self._life_scope:
                await self._live()
            if not self.life.cancelled and self._life_scope.cancelled_caught:
                checks.fail(6, f"{name}: leaving took too long")
            if self._world.ending.is_set():
                return

    def cancel(self) -> None:
        self.life.cancelled = True
        self._world.checks.reached["cancelled clients"] += 1
        self._life_scope.cancel()

    def leave(self) -> None:
        """Leave the client's block as one does."""
        self._stay.cancel()

    async def _live(self) -> None:
        world, scenario, life = self._world, self._world.scenario, self.life
        try:
            async with trioweb.open_client(
                partial(self._url, life),
                retry=RETRY,
                heartbeat=scenario.heartbeat,
                outbox=self.policy,
                limits=scenario.limits,
                on_open=partial(self._on_open, life),
                dial=partial(self._dial, life),
                random=self._random,
            ) as self.client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, self.client, life)
                    with trio.CancelScope() as self._stay:
                        await world.begun.wait()
                        await self._talk(self.client, life)
                        await world.ending.wait()
                    nursery.cancel_scope.cancel()
                # Once to flush, once to close.
                timeout = scenario.limits.close_timeout
                self._life_scope.deadline = trio.current_time() + 2 * timeout + 0.1
        except trioweb.Unsent as exc:
            life.unsent = exc.count
        finally:
            if self.client is not None:
                world.checks.reached["resends"] += self.client.statistics().resent > 0
            self.client = None

    async def _url(self, life: Life) -> str:
        visit = self._world.checks.tried(life)
        server = self._random.choice(self._world.scenario.servers)
        return f"ws://{server}/?life={life.name}&visit={visit.number}"

    async def _dial(self, life: Life, host: str, port: int) -> Tap:
        stream = await self._host.dial(host, port)
        silent = partial(self._world.checks.silent, f"client {life.name}")
        self._tap = Tap(stream, silent)
        return self._tap

    async def _on_open(self, life: Life, connection: Connection) -> None:
        checks, tap, begun = self._world.checks, self._tap, trio.current_time()
        assert tap is not None
        checks.opened(life, self._world.visit_of(connection))
        tap.on_close = lambda: checks.ended(life, trio.current_time() - begun)

    async def _receive(self, client: trioweb.Client, life: Life) -> None:
        checks = self._world.checks
        visit: Visit | None = None
        with client.messages(events=True) as messages:
            async for item in messages:
                match item:
                    case Opened(session=session):
                        visit = life.opened[session - 1]
                    case Lost(error=error):
                        self._world.outages += 1
                        checks.lost(error)
                    case Undelivered():
                        checks.reached["messages given up"] += 1
                    case str():
                        assert visit is not None
                        checks.delivered(life, visit, item)
                        if self._person.nap:
                            await trio.sleep(self._person.nap)

    async def _talk(self, client: trioweb.Client, life: Life) -> None:
        self.is_idle = False
        healed = self._world.healed
        while not healed.is_set():
            with trio.move_on_after(self._random.expovariate(1 / self._world.scenario.pause)):
                await healed.wait()
            for _ in range(self._random.choice((1, 1, 1, 10))):
                await self._say(client, life)
            await self._flush(client, life)
        self.is_idle = True

    async def _say(self, client: trioweb.Client, life: Life) -> None:
        number = len(life.accepted) + 1
        # No two are alike, so that one which was cancelled can be told from the next.
        text = f"{life.name} {number} {self._random.random():.6f}"
        text += "x" * self._random.randint(0, self._person.size)
        text += " poison" if self.poison else ""
        with trio.move_on_after(self._patience()) as scope:
            await client.send(text)
            self._world.checks.accepted(life, text)
            self.poison = False
        self._world.checks.reached["cancelled sends"] += scope.cancelled_caught

    async def _flush(self, client: trioweb.Client, life: Life) -> None:
        checks, tap = self._world.checks, self._tap
        number = len(life.accepted)
        begun, sessions = trio.current_time(), client.statistics().sessions
        is_open = client.state is State.OPEN
        buffered = client.buffered_amount
        limit = self._world.scenario.heartbeat.timeout + SLACK
        with trio.move_on_after(min(self._patience(), limit)) as scope:
            await client.flush()
            checks.flushed(life, number)
        checks.reached["cancelled flushes"] += scope.cancelled_caught
        if (
            trio.current_time() >= begun + limit
            and is_open
            and client.state is State.OPEN
            and client.statistics().sessions == sessions
            and client.buffered_amount == buffered
            and tap is not None
            and not tap.is_hindered_since(begun)
        ):
            checks.fail(6, f"{life.name}: nothing was confirmed for {limit:g} s in one session")

    def _patience(self) -> float:
        """Seconds after which what it waits for is cancelled."""
        if not self._person.fickle:
            return float("inf")
        return self._random.choice((0, 0.01, 1, 30))


class World:
    """All of it, and what has happened.

    Attributes:
        begun, healed, ending: everybody is connected; nothing goes wrong any more; it is time
            to leave.
        outages: sessions lost so far.
        poisoned: the connections whose handlers have raised.
    """

    def __init__(self, scenario: Scenario) -> None:
        conditions = scenario.conditions
        self.scenario = scenario
        self.network = Network(
            scenario.seed,
            latency=conditions.latency,
            jitter=conditions.jitter,
            bandwidth=conditions.bandwidth,
            segment=conditions.segment,
            max_bytes=scenario.max_bytes,
        )
        self.checks = Checks(scenario, self.network)
        self.begun, self.healed, self.ending = trio.Event(), trio.Event(), trio.Event()
        self.over = False
        self.outages = 0
        self.poisoned: list[Connection] = []
        backend = OrderlyBackend if scenario.orderly else Backend
        self.backends = {name: backend(self, name) for name in scenario.servers}
        self.talkers = {person.name: Talker(self, person) for person in scenario.people}

    def visit_of(self, connection: Connection) -> Visit:
        """Whose connection this is, on either side of it."""
        return self.visit_by(connection.request.query)

    def visit_by(self, query: Mapping[str, str]) -> Visit:
        """The same, by what it asked for."""
        return self.checks.lives[query["life"]].visits[int(query["visit"])]

    async def live(self) -> None:
        scenario, checks = self.scenario, self.checks
        async with trio.open_nursery() as nursery:
            for backend in self.backends.values():
                nursery.start_soon(backend.run)
            async with trio.open_nursery() as people:
                for talker in self.talkers.values():
                    people.start_soon(talker.run)
                with checks.within(scenario.recovery, 5, "the first connecting"):
                    await self._all_caught_up()
                before = self._census()
                self.begun.set()
                await self._busy()
                self.healed.set()
                with checks.within(scenario.recovery, 5, "recovering"):
                    await self._all_caught_up()
                # What a server still holds of those who have come back on other ways.
                await trio.sleep(scenario.recovery)
                await self._compare("after healing", before)
                tries = self._tries()
                await trio.sleep(scenario.quiet)
                if self._tries() != tries:
                    checks.fail(5, f"{self._tries() - tries} attempts to connect in all quiet")
                await self._compare("after a quiet time", before)
                self.ending.set()
            self.over = True
            for backend in self.backends.values():
                backend.stop()
        for connection in self.poisoned:
            checks.contained(connection)
        if left := self.network.open_names():
            checks.fail(4, f"left behind: {', '.join(left)}")
        checks.finish()

    async def _busy(self) -> None:
        """The time in which things go wrong, for as long as the scenario says."""
        with trio.CancelScope() as sampling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sample)
                async with trio.open_nursery() as troubles:
                    troubles.start_soon(trio.sleep, self.scenario.busy)
                    troubles.start_soon(self.network.run, self.scenario.plan)
                    for trouble in self.scenario.troubles:
                        troubles.start_soon(self._trouble, trouble)
                sampling.cancel()
        crashes = sum(fault.kind in ("crash", "power_cut") for fault in self.scenario.plan.faults)
        self.checks.reached["crashes"] += crashes

    async def _trouble(self, trouble: Trouble) -> None:
        await trio.sleep(trouble.at)
        match trouble.kind:
            case "restart":
                self.backends[trouble.target].stop()
                await trio.sleep(GRACE + RESTART_PAUSE + SLACK)
            case "sick":
                self.backends[trouble.target].sick = True
                await trio.sleep(trouble.duration)
                self.backends[trouble.target].sick = False
            case "poison":
                self.talkers[trouble.target].poison = True
            case "cancel":
                self.talkers[trouble.target].cancel()
            case "leave":
                self.talkers[trouble.target].leave()

    def _is_whole(self) -> bool:
        return all(talker.is_caught_up() for talker in self.talkers.values())

    async def _all_caught_up(self) -> None:
        while True:
            if self._is_whole():
                return
            await trio.sleep(1)

    async def _sample(self) -> None:
        """Look every now and then whether what is held is bounded."""
        while True:
            await trio.sleep(self.scenario.busy / 20)
            for backend in self.backends.values():
                if backend.server is not None and backend.topic is not None:
                    self.checks.sample_topic(backend.topic)
                    for connection in backend.server.connections:
                        self.checks.sample_connection(connection)
            for talker in self.talkers.values():
                if talker.client is not None:
                    buffered = talker.client.buffered_amount
                    self.checks.sample_outbox(talker.life, buffered, talker.policy)

    def _tries(self) -> int:
        return sum(len(life.visits) for life in self.checks.lives.values())

    def _census(self) -> Counter[str]:
        """How many there are of trioweb's tasks and of open streams."""
        found = Counter(
            streams=self.network.statistics().streams,
            listeners=self.network.statistics().listeners,
            connections=sum(
                len(backend.server.connections)
                for backend in self.backends.values()
                if backend.server is not None
            ),
        )
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks = [root]
        while tasks:
            task = tasks.pop()
            found[task.name] += not task.name.startswith("tests.simulation")
            tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        return +found

    async def _compare(self, when: str, before: Counter[str]) -> None:
        await trio.testing.wait_all_tasks_blocked()  # this may be a heartbeat's very moment
        if not self._is_whole():
            self.checks.fail(5, f"{when} somebody is not connected and caught up")
        now = self._census()
        if now != before:
            more, less = dict(now - before), dict(before - now)
            self.checks.fail(4, f"{when} there are more of {more}, less of {less}")
