"""What tests of stores share: a place for one, and what a kill would leave of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Unpack

import trio

from trioweb import Hub, Position, Retain
from trioweb._topics._commands import (
    Answer,
    Ask,
    Command,
    Load,
    Loaded,
    Publish,
    Standing,
    Subscribe,
    entry_of,
)
from trioweb._topics._publishing import PublishDetails, prepare
from trioweb._topics._store._keeping import Store
from trioweb._topics._store._node import StoreNode
from trioweb._topics._store._opening import journal_path
from trioweb._workers import Switchboard

# What a `Desk` says of its topics.
RETAIN = Retain(max_messages=12)


def store_of(hub: Hub) -> Store:
    node = hub._node
    assert isinstance(node, StoreNode)
    return node.store


def journal_of(path: Path) -> Path:
    return Path(journal_path(str(path)))


def copy_as_killed(hub: Hub | Store, to: Path) -> Path:
    """The files as a SIGKILL would leave them now, in the directory *to*; the path of the store."""
    store = store_of(hub) if isinstance(hub, Hub) else hub
    path = Path(store._database.path)
    to.mkdir()
    with store._database.lock:
        for name in (path, journal_of(path), path.with_name(f"{path.name}-wal")):
            if name.exists():
                shutil.copy(name, to / name.name)
    return to / path.name


class Desk:
    """A reader that asks and publishes as one node, and waits as a worker does."""

    def __init__(
        self,
        switchboard: Switchboard,
        node: str = "node",
        retain: Retain = RETAIN,
        *,
        patience: float = 20,
    ) -> None:
        self.switchboard = switchboard
        self.node = node
        self.number = 0
        self.retain = retain
        self._patience = patience

    def push(self, data: bytes) -> None:
        pass

    async def execute(self, command: Command) -> Answer:
        with trio.fail_after(self._patience):
            for _ in range(100):
                if (wait := self.switchboard.wait_for(command)) is None:
                    return self.switchboard.execute(self, self.node, command)
                await wait()
        raise AssertionError(f"{command} waits again and again")

    def say(
        self,
        topic: str,
        message: str | bytes,
        skip: str | None = None,
        **details: Unpack[PublishDetails],
    ) -> Publish:
        self.number += 1
        entry = entry_of(f"{self.node}:{self.number}", *prepare(message, skip, **details))
        return Publish(topic, self.retain, self.number, entry, False)

    async def publish(
        self, topic: str, text: str = "x", **details: Unpack[PublishDetails]
    ) -> Position:
        answer = await self.execute(self.say(topic, text, **details))
        assert isinstance(answer, Position), answer
        return answer

    async def ask(self, topic: str, epoch: str = "", offset: int = 0, id: str = "") -> Standing:
        answer = await self.execute(Ask(topic, self.retain, epoch, offset, id))
        assert isinstance(answer, Standing)
        return answer

    async def subscribe(self, topic: str) -> Standing:
        answer = await self.execute(Subscribe(topic, self.retain, "", 0, ""))
        assert isinstance(answer, Standing)
        return answer

    async def load(self, topic: str, after: int = 0, upto: int = 2**40) -> Loaded:
        answer = await self.execute(Load(topic, self.retain, after, upto))
        assert isinstance(answer, Loaded)
        return answer
