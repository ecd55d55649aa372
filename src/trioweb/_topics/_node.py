"""A node: one hub's part in a broker that has an engine.

What is published waits here until the engine has answered.  After a connection to the engine was
lost, the next one first ends what the old one may still carry, then asks where each topic stands,
then sends again what was not answered, in order, as retries.  So an accepted publication is
published once and in order, or refused, or counted as unanswered in the end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import takewhile
from typing import Final, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from .._chance import new_random, random_name
from .._effort import EFFORT
from .._errors import BrokerFull
from .._waitable import Waitable, check_thread
from ._broker import Receipt
from ._commands import (
    Answer,
    Ask,
    Changed,
    Load,
    Ping,
    Publish,
    Pushed,
    Refusal,
    Subscribe,
    Unsubscribe,
    new_entry,
    new_publish,
)
from ._details import Details
from ._engine_link import Broker, BrokerStatistics, EngineGone, EngineLink, EngineLost, ignore
from ._log import size_of
from ._node_presence import RENEWAL, NodePresence
from ._outage import Outage
from ._position import Position
from ._presence import DoLater
from ._retention import Retention
from ._shape import COST_OF_WRITE
from ._subscription import logger
from ._topic import Topic
from ._window import Window

# Between two lines in the log about publications that were refused.
_SECONDS_PER_LINE: Final = 60
# Commands that are sent before others may run.
_SENT_AT_ONCE: Final = 64
# Topics that a new connection has asked for and that are not answered yet.  Fewer would make it
# wait where an engine is far away; more are objects that Python's collector goes through, over and
# over.
_MOST_ASKED: Final = 512

# A publication that is not answered yet, and who wants to know the answer.
_Post: TypeAlias = tuple[Publish, Receipt | None]


class EngineNode:
    """A hub's node.  `run` is its task, once its presence is open.

    Attributes:
        restarts: see `BrokerStatistics`.
        lingers: see `Keeper`.
    """

    _presence: NodePresence

    def __init__(self, broker: Broker) -> None:
        self.restarts = 0
        self.lingers = True
        self._broker = broker
        self._policy = broker.policy
        self._id = random_name()
        self._number = 0
        # By their numbers, in the order of these.
        self._posts: dict[int, _Post] = {}
        self._bytes = 0
        self._room = Waitable()
        self._windows: dict[str, Window] = {}
        # Those that nobody uses, and until when they stay; the longest unused first.
        self._lingering: OrderedDict[Window, float] = OrderedDict()
        self._chores = Waitable()
        self._link: EngineLink | None = None
        # Whether all that was not answered was sent again on this link.
        self._is_synced = False
        # Within it the end waits for answers; nothing does once the engine has gone.
        self._flushing = trio.CancelScope()
        self._refused = 0
        self._attempts = self._connects = 0
        self._next_line = -float("inf")
        self._random = new_random()

    def open_presence(self, retention: Retention, do_later: DoLater) -> NodePresence:
        self._presence = NodePresence(self._id, retention, do_later)
        return self._presence

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            connected=self._link is not None,
            waiting=len(self._posts),
            attached=len(self._windows),
            refused=self._refused,
            restarts=self.restarts,
            attempts=self._attempts,
            connects=self._connects,
        )

    # Publishing.

    def publish(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> int:
        self._post(topic, frame, skip, details, None)
        return 0

    def post(self, topic: Topic, frame: bytes, skip: str | None, details: Details) -> Receipt:
        receipt = Receipt()
        self._post(topic, frame, skip, details, receipt)
        return receipt

    async def wait_room(self, topic: Topic, size: int) -> None:
        while self._posts and not self._has_room(size):
            await self._room.wait_change()

    def _has_room(self, size: int) -> bool:
        outbox = self._policy.outbox
        return len(self._posts) < outbox.max_messages and self._bytes + size <= outbox.max_bytes

    def _post(
        self,
        topic: Topic,
        frame: bytes,
        skip: str | None,
        details: Details,
        receipt: Receipt | None,
    ) -> None:
        check_thread()
        topic._hub._check_open()
        size = size_of(frame, skip) + details.size
        if not self._has_room(size):
            raise BrokerFull(f"{len(self._posts)} publications, {self._bytes} bytes")
        self._number = number = self._number + 1
        entry = new_entry((f"{self._id}:{number}", frame, skip, details, size))
        command = new_publish((topic.name, topic.retain, number, entry, False))
        self._posts[number] = command, receipt
        self._bytes += size
        EFFORT.spent += COST_OF_WRITE + (size >> 8)
        if self._link is not None and self._is_synced:
            self._link.send(command, partial(self._answered, number))

    @enable_ki_protection
    def _answered(self, number: int, answer: Answer) -> None:
        post = self._posts.pop(number, None)
        if post is None:
            return  # the hub was closed
        command, receipt = post
        self._bytes -= command.entry.size
        outcome = answer if isinstance(answer, Position) else self._refusal(command, answer)
        if receipt is not None:
            receipt._settle(outcome)
        self._room.changed()

    def _refusal(self, command: Publish, answer: Answer) -> str:
        reason = answer.reason if isinstance(answer, Refusal) else repr(answer)
        self._refused += 1
        self._complain("the broker has refused to publish to %r: %s", command.topic, reason)
        return reason

    def _complain(self, text: str, *args: object) -> None:
        """Write a line into the log, but not one each time."""
        now = trio.current_time()
        if now >= self._next_line:
            self._next_line = now + _SECONDS_PER_LINE
            logger.warning(text, *args)

    # Windows.

    def window(self, topic: Topic) -> Window:
        return Window(topic, self)

    def begin(self, topic: Topic) -> tuple[str, int]:
        return "", 0

    def attach(self, window: Window) -> None:
        """Receive the topic of *window*, and tell it where that stands."""
        self._windows[window.topic.name] = window
        if self._link is not None:
            self._link.send(window.question(Subscribe), window.ask())

    def detach(self, window: Window) -> None:
        """Do not receive it any more."""
        self._lingering.pop(window, None)
        del self._windows[window.topic.name]
        window.topic._epoch = ""
        if self._link is not None:
            self._link.send(Unsubscribe(window.topic.name), ignore)

    def ask(self, window: Window) -> None:
        """Tell *window* where its topic stands."""
        told = window.ask()
        if self._link is not None:
            self._link.send(window.question(Ask), told)

    def load(self, window: Window, after: int, upto: int, loaded: Callable[[Answer], None]) -> None:
        """See `Keeper`."""
        topic = window.topic
        if self._link is not None:
            self._link.send(Load(topic.name, topic.retain, after, upto), loaded)

    @enable_ki_protection
    def _receive(self, pushed: Pushed) -> None:
        if isinstance(pushed, Changed):
            self._presence.changed(pushed)
            return
        window = self._windows.get(pushed.topic)
        if window is not None:
            window.receive(pushed.epoch, pushed.stored)

    # What takes time.

    def in_use(self, window: Window) -> None:
        """Somebody uses it again."""
        self._lingering.pop(window, None)

    def unused(self, window: Window) -> None:
        """Nobody does."""
        if window not in self._lingering:
            self._lingering[window] = trio.current_time() + self._policy.linger
            self._chores.changed()

    async def run(self) -> None:
        """Connect to the engine, again and again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._do_chores)
            fence = ""
            retry = self._policy.retry
            outage = Outage(retry.stable_after)
            failures = 0
            while True:
                self._attempts += 1
                try:
                    async with self._connect(fence) as link:
                        fence = link.id
                        failures = 0
                        outage.end()
                        reason = await self._serve(link)
                except EngineLost as exc:
                    reason = str(exc)
                    if isinstance(exc, EngineGone):
                        self._flushing.cancel()
                finally:
                    self._link, self._is_synced = None, False
                    self._presence.lost()
                outage.fail(reason)
                bound = min(retry.maximum, retry.initial * 2 ** min(failures, 30))
                failures += 1
                await trio.sleep(self._random.uniform(0, bound))

    def _connect(self, fence: str) -> AbstractAsyncContextManager[EngineLink]:
        return self._broker.connect(self._id, fence, self._receive)

    async def _serve(self, link: EngineLink) -> str:
        """Use *link* until it is lost; return why."""
        self._connects += 1
        self._link = link
        reason = ""

        async def watch() -> None:
            nonlocal reason
            while True:
                await trio.sleep(self._policy.timeout)
                answered = trio.Event()
                link.send(Ping(), partial(_set, answered))
                with trio.move_on_after(self._policy.timeout):
                    await answered.wait()
                if not answered.is_set():
                    reason = f"the engine was silent for {self._policy.timeout} seconds"
                    nursery.cancel_scope.cancel()

        async def renew() -> None:
            while True:
                await trio.sleep(RENEWAL)
                self._presence.renew()

        self._presence.connected(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(renew)
            nursery.start_soon(self._resync, link)
            reason = await link.wait_lost()
            nursery.cancel_scope.cancel()
        return reason

    @enable_ki_protection
    async def _resync(self, link: EngineLink) -> None:
        """Find where each topic stands, then go on publishing."""
        await self._subscribe(link)
        last = 0
        # What is posted while others run comes behind what was posted before.
        while commands := self._posted_behind(last):
            for count, command in enumerate(commands, 1):
                last = command.number
                # One that was not sent before is not there, and so published as well.
                link.send(command._replace(is_retry=True), partial(self._answered, last))
                if count % _SENT_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
        self._is_synced = True

    @enable_ki_protection
    async def _subscribe(self, link: EngineLink) -> None:
        """Receive all topics again, and find where they stand."""
        windows = tuple(self._windows.values())
        under_way: deque[trio.Event] = deque()
        for start in range(0, len(windows), _SENT_AT_ONCE):
            if start:
                await trio.lowlevel.checkpoint()
            if len(under_way) == _MOST_ASKED // _SENT_AT_ONCE:
                await under_way.popleft().wait()
            batch = [one for one in windows[start : start + _SENT_AT_ONCE] if one.is_attached]
            for window in batch[:-1]:
                link.send(window.question(Subscribe), window.ask())
            # Answers come in order, nearly always: the last is that of all.
            for window in batch[-1:]:
                answered = trio.Event()
                under_way.append(answered)
                link.send(window.question(Subscribe), partial(_pass_on, window.ask(), answered))

    def _posted_behind(self, number: int) -> list[Publish]:
        """Those with higher numbers, in order."""
        posted = (command for command, _ in reversed(self._posts.values()))
        return [*takewhile(lambda command: command.number > number, posted)][::-1]

    async def _do_chores(self) -> None:
        forgotten = 0
        while True:
            due = next(iter(self._lingering.values()), float("inf"))
            if due <= trio.current_time():
                window, _ = self._lingering.popitem(last=False)
                window.topic._hub._retention.forget(window.topic)
                forgotten += 1
                if forgotten % _SENT_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            else:
                with trio.move_on_at(due):
                    await self._chores.wait_change()

    # The end.

    async def flush(self) -> None:
        """Wait until all is answered, but not for long."""
        self._flushing.deadline = trio.current_time() + self._policy.flush_timeout
        with self._flushing:
            while self._posts:
                await self._room.wait_change()
            await self._presence.flush()

    def close(self) -> None:
        """Nothing is published any more."""
        self._presence.close()
        count = len(self._posts)
        if count:
            words = "publication was" if count == 1 else "publications were"
            logger.warning("%d %s not answered by the broker", count, words)
        posts, self._posts, self._bytes = self._posts, {}, 0
        for _, receipt in posts.values():
            if receipt is not None:
                receipt._settle("the hub was closed before the broker had answered")
        self._room.changed()


def _set(event: trio.Event, answer: Answer) -> None:
    event.set()


def _pass_on(told: Callable[[Answer], None], event: trio.Event, answer: Answer) -> None:
    told(answer)
    event.set()
