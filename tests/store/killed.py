"""A program that publishes to a store and is killed, again and again, at places that a seed says.

    python -m tests.store.killed DIRECTORY hub|engine SEED…

It is a hub, or the engine of a parent that has workers.  For each seed it has several lives, each
of them a process of its own, which ends with a SIGKILL at a line of the store's code, at a moment,
or not at all.  Each first checks that all is there that publishers were told in the lives before.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import trio

from tests.store.support import Desk
from trioweb import HubFull, Position, Publication, Publisher, Retain, Topic, _engine, open_hub
from trioweb._topics import _store
from trioweb._topics._details import Kind
from trioweb._topics._publishing import PublishDetails
from trioweb._topics._store import _keeping
from trioweb._workers import _kept, open_switchboard

_LIVES: Final = 4
_TOPICS: Final = ("lobby", "news", "a b/ü", "ticker", "once")
_RETAIN: Final = Retain(max_messages=40)
# So that the ring of the journal, a quarter of it, comes around often.
_MAX_BYTES: Final = 2**18
_PATIENCE: Final = 60
_CODE: Final = (str(Path(_store.__file__).parent), _engine.__file__, _kept.__file__)


class Model:
    """What `publish` has returned for, by topic and offset."""

    def __init__(self) -> None:
        self.epochs: dict[str, str] = {}
        self.told: dict[str, dict[int, list[Any]]] = {}

    def add(self, name: str, epoch: str, offset: int, what: list[Any]) -> None:
        assert self.epochs.setdefault(name, epoch) == epoch, f"{name}: another epoch"
        told = self.told.setdefault(name, {})
        assert offset not in told, f"{name}: offset {offset} was given twice"
        told[offset] = what


def _kill_at_line(count: int) -> None:
    """Die at the *count*th line of the store's own code that is run, in whichever thread."""
    left = count

    def trace_line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace_line

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        return trace_line if frame.f_code.co_filename.startswith(_CODE) else None

    threading.settrace(trace)
    sys.settrace(trace)


class _Drawn(NamedTuple):
    """A publication that a seed has chosen, and how it is told of."""

    message: str | bytes
    skip: str | None
    details: PublishDetails
    shown: list[Any]


def _draw(rng: random.Random, number: str | None) -> _Drawn:
    """Choose one; with *number* it has a key, which has that in it."""
    size = rng.randrange(2000) if rng.random() < 0.05 else rng.randrange(200)
    kind: Kind = rng.choice(("text", "text", "json", "bytes"))
    text = f"{rng.random()}" + "ä" * (size // 2)
    message: str | bytes = text if kind == "text" else json.dumps({"a": text})
    if kind == "bytes":
        message = text.encode()
    key = None if number is None else f"{number} {rng.random()}"
    tags = {"tag": "ö"} if rng.random() < 0.2 else {}
    publisher = rng.choice((None, None, "me"))
    skip = rng.choice((None, None, "you"))
    shown = message.hex() if isinstance(message, bytes) else message
    details = PublishDetails(
        key=key,
        tags=tags,
        kind=kind,
        publisher=None if publisher is None else Publisher(publisher),
    )
    return _Drawn(message, skip, details, [shown, kind, key, tags, publisher, skip])


def _show(one: Publication, skip: str | None) -> list[Any]:
    return [
        one.message.hex() if isinstance(one.message, bytes) else one.message,
        one.kind,
        one.key,
        dict(one.tags),
        one.publisher and one.publisher.id,
        skip,
    ]


def _shown(topic: Topic, first: int) -> dict[int, list[Any]]:
    return {
        one.offset: _show(one, topic._log.skip(one.offset))
        for one in topic.history()
        if one.offset >= first
    }


async def _check(topic: Topic, epoch: str, told: dict[int, list[Any]]) -> None:
    assert topic.epoch == epoch, f"{topic.name}: another epoch"
    head = max(told)
    assert head <= topic.head <= head + 1, f"{topic.name}: {head} became {topic.head}"
    first = max(1, topic.head + 1 - _RETAIN.max_messages)
    await topic.load(since=(epoch, first - 1))
    assert topic.recovery((epoch, head)).recovered
    assert topic.recovery((epoch, first - 1)).recovered
    found = _shown(topic, first)
    expected = {offset: what for offset, what in told.items() if offset >= first}
    assert {o: w for o, w in found.items() if o in expected} == expected, topic.name
    for offset, (_, _, key, _, publisher, _) in expected.items():
        if key is not None:
            again = topic.publish(
                "again", key=key, publisher=None if publisher is None else Publisher(publisher)
            )
            assert again == offset, f"{topic.name}: {key} was published again at {again}"


async def _live(path: str, rng: random.Random, model: Model, acknowledge: int) -> None:
    async with open_hub(store=path, max_bytes=_MAX_BYTES) as hub:
        told = hub.statistics().store
        assert told is not None and told.ended is None, told
        topics = {name: hub.topic(name, retain=_RETAIN) for name in _TOPICS}
        for name, epoch in model.epochs.items():
            # What was on its way when the process was killed may be there.
            await _check(topics[name], epoch, model.told[name])
        for number in range(rng.randrange(20, 150)):
            if rng.random() < 0.1:
                await trio.sleep(rng.choice((0, 0, 0.003, 0.01)))
            topic = topics[rng.choice(_TOPICS)]
            one = _draw(rng, f"{number}" if topic.name == "once" else None)
            head = topic.head
            try:
                offset = topic.publish(one.message, one.skip, **one.details)
            except HubFull:
                assert topic.head == head
                await trio.sleep(0.005)
                continue
            assert offset == head + 1
            _tell(acknowledge, topic.name, topic.epoch, offset, one)


def _tell(acknowledge: int, name: str, epoch: str, offset: int, one: _Drawn) -> None:
    line = json.dumps([name, epoch, offset, one.shown]) + "\n"
    os.write(acknowledge, line.encode())


async def _check_engine(desk: Desk, name: str, epoch: str, told: dict[int, list[Any]]) -> None:
    standing = await desk.ask(name)
    assert (standing.epoch, standing.begin) == (epoch, 0), f"{name}: another epoch"
    head = max(told)
    assert head <= standing.head <= head + 1, f"{name}: {head} became {standing.head}"
    first = max(1, standing.head + 1 - _RETAIN.max_messages)
    loaded = await desk.load(name)
    assert loaded.oldest == first, f"{name}: {loaded.oldest} is the oldest, not {first}"
    found = {
        offset: _show(Publication(offset, entry.frame, entry.details), entry.skip)
        for offset, entry, _ in loaded.entries
    }
    assert list(found) == list(range(first, standing.head + 1))
    expected = {offset: what for offset, what in told.items() if offset >= first}
    assert {o: w for o, w in found.items() if o in expected} == expected, name
    for offset, (_, _, key, _, publisher, _) in expected.items():
        if key is not None:
            whose = None if publisher is None else Publisher(publisher)
            again = await desk.execute(desk.say(name, "again", key=key, publisher=whose))
            assert again == Position(epoch, offset), f"{name}: {key}: {again}"


async def _live_as_engine(path: str, rng: random.Random, model: Model, acknowledge: int) -> None:
    async with open_switchboard(max_topics=100, max_bytes=_MAX_BYTES, store=path) as board:
        assert board.store is not None
        assert board.store.statistics().ended is None, board.store.statistics()
        desk = Desk(board, f"{rng.random()}", _RETAIN, patience=_PATIENCE)
        for name, epoch in model.epochs.items():
            await _check_engine(desk, name, epoch, model.told[name])
        for number in range(rng.randrange(20, 150)):
            if rng.random() < 0.1:
                await trio.sleep(rng.choice((0, 0, 0.003, 0.01)))
            if rng.random() < 0.1 and board._idle:
                board._forget_longest_unused()
            name = rng.choice(_TOPICS)
            one = _draw(rng, f"{number}" if name == "once" else None)
            command = desk.say(name, one.message, one.skip, **one.details)
            answer = await desk.execute(command)
            assert isinstance(answer, Position), answer
            if rng.random() < 0.1:
                again = await desk.execute(command._replace(is_retry=True))
                assert isinstance(again, Position)
                assert again.offset in (0, answer.offset), again
            _tell(acknowledge, name, *answer, one)


_LIFE: Final = {"hub": _live, "engine": _live_as_engine}


def _run_life(path: str, kind: str, seed: str, model: Model) -> str | None:
    """Live once; return what went wrong."""
    rng = random.Random(seed)
    receive, acknowledge = os.pipe()
    at_line = int(10 ** rng.uniform(1, 4.5)) if rng.random() < 0.7 else None
    after = 10 ** rng.uniform(-2.5, -0.7) if at_line is None and rng.random() < 0.8 else None
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        status = 1
        try:
            _keeping._COLLECTING = 0.002  # type: ignore[misc]
            _kept._PATIENCE = _PATIENCE  # type: ignore[misc]
            if at_line is not None:
                _kill_at_line(at_line)
            trio.run(_LIFE[kind], path, rng, model, acknowledge)
            status = 0
        except BaseException:
            os.write(acknowledge, ("!failed\n" + traceback.format_exc()).encode())
        finally:
            os._exit(status)
    os.close(acknowledge)
    killer = threading.Timer(_PATIENCE if after is None else after, os.kill, (pid, signal.SIGKILL))
    killer.start()
    began = time.monotonic()
    with open(receive, "rb") as file:
        text = file.read().decode()
    killer.cancel()
    killer.join()
    _, status = os.waitpid(pid, 0)
    if after is None and time.monotonic() - began >= _PATIENCE:
        return f"it hung; it had said {text[-500:]}"
    lines, failed, error = text.partition("!failed\n")
    if failed or os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        return f"exit {status}: {error}"
    for line in lines.splitlines():
        model.add(*json.loads(line))
    return None


def main(directory: str, kind: str, seeds: list[str]) -> int:
    for seed in seeds:
        model = Model()
        path = os.path.join(directory, f"{seed}.db")
        for life in range(_LIVES):
            failure = _run_life(path, kind, f"{seed} {life}", model)
            if failure is not None:
                print(f"seed {seed}, life {life}: {failure}", flush=True)
                return 1
    print(f"{len(seeds)} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
