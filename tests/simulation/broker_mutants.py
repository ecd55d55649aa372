"""Mutants of brokers, to prove that the checks of `broker_world` can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trioweb import _engine as engine
from trioweb._topics._commands import Subscribe
from trioweb._topics._engine_link import EngineLink
from trioweb._topics._node import EngineNode
from trioweb._topics._window import Window
from trioweb.testing import MemoryBroker


def _no_dedup(patch: pytest.MonkeyPatch) -> None:
    publish = engine.Engine._publish
    patch.setattr(
        engine.Engine,
        "_publish",
        lambda self, node, command: publish(self, node, command._replace(is_retry=False)),
    )


def _no_life_check(patch: pytest.MonkeyPatch) -> None:
    begin = engine.Engine.restart

    def restart(self: engine.Engine, lost: int | None) -> None:
        run = self.run
        begin(self, lost)
        self.run = run
        for topic in self.topics.values():
            topic.run = run

    patch.setattr(engine.Engine, "restart", restart)


async def _subscribe_only(self: EngineNode, link: EngineLink) -> None:
    for window in tuple(self._windows.values()):
        if window.topic.epoch:
            topic = window.topic
            nothing = Subscribe(topic.name, topic.retain, "", 0, "")
            link.send(nothing, lambda answer: None)
        else:
            link.send(window.question(Subscribe), window.ask())


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no fence": lambda patch: patch.setattr(MemoryBroker, "_fence", lambda self, id: None),
    "no dedup": _no_dedup,
    "no life check": _no_life_check,
    "no bound": lambda patch: patch.setattr(EngineNode, "_has_room", lambda self, size: True),
    "no question after a hole": lambda patch: patch.setattr(
        Window,
        "receive",
        lambda self, epoch, stored: self._append(stored) if self.is_attached else None,
    ),
    "no matching": lambda patch: patch.setattr(engine, "_has", lambda topic, offset, id: True),
    "no resync": lambda patch: patch.setattr(EngineNode, "_subscribe", _subscribe_only),
}
