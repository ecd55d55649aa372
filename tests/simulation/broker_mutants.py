"""Mutants of brokers, to prove that the checks of `broker_world` can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trioweb import _engine as engine
from trioweb._topics._commands import Answer, Subscribe
from trioweb._topics._engine_link import EngineLink
from trioweb._topics._node import EngineNode
from trioweb._topics._window import ASKING, Window
from trioweb._workers._parent_end import ParentEnd
from trioweb._workers._words import Words
from trioweb._workers._worker_end import _WorkerLink
from trioweb.testing import MemoryBroker


def _no_dedup(patch: pytest.MonkeyPatch) -> None:
    publish = engine.Engine.publish
    patch.setattr(
        engine.Engine,
        "publish",
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


def _old_answers(patch: pytest.MonkeyPatch) -> None:
    told = Window._told

    def tell(self: Window, stint: int, answer: Answer) -> None:
        told(self, self._stint if self._state is ASKING else stint, answer)

    patch.setattr(Window, "_told", tell)


def _no_sessions(patch: pytest.MonkeyPatch) -> None:
    hear = _WorkerLink.hear

    def hear_anything(self: _WorkerLink, words: Words) -> None:
        self.is_welcome = True
        hear(self, words)

    patch.setattr(_WorkerLink, "hear", hear_anything)


def _no_word_of_a_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ParentEnd, "_lose", lambda self: self._pipe.take_unsent())


# Of parents and workers.
WORKER_MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no sessions": _no_sessions,
    "a worker that is too slow is not told": _no_word_of_a_loss,
    "answers to old questions": _old_answers,
}
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
    "answers to old questions": _old_answers,
    "no resync": lambda patch: patch.setattr(EngineNode, "_subscribe", _subscribe_only),
}
