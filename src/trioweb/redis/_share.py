"""Which engine has which topics, now and in the past.  No I/O.

A topic is at the engine that its name and that of the engine choose together (rendezvous hashing),
so that a list with one more or one less moves only the topics of that one.  Nodes with other lists
would split topics in silence.  So each engine keeps the list that its nodes have, by generation: a
number that is raised whenever the list is changed.  A node whose list differs is refused.  A topic
that was elsewhere in a generation that its record has not seen has missed what was published there.
One engine alone has no name, since nodes may reach it by different ones.

The number is given by who changes the list, and not found: an engine that was taken out is told
nothing of what comes after, and must not take its topics for whole when it is in the list again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from .._topics._engine_link import EngineLost

ALONE: Final = ("",)


class Share:
    """The part of one engine among *names*.

    Args:
        name: that of the engine; one of *names*.
        names: those of all; ALONE for one.
        generation: the number of this list.
    """

    def __init__(self, name: str, names: Sequence[str], generation: int) -> None:
        self.generation = generation
        self.list = "\n".join(sorted(names))
        self._name = name
        # Those that the engine has had before, the newest first, up to a hole.
        self._former: list[list[str]] = []
        self._since: dict[str, int] = {}

    def check(self, known: Mapping[int, str]) -> None:
        """Take what the engine knows: lists by generation.

        Raises:
            EngineLost: this is not the list that its nodes have.
        """
        newest = max(known, default=0)
        there = known.get(self.generation, self.list)
        if newest > self.generation or there != self.list:
            raise EngineLost(
                f"its nodes have {_shown(known[newest])} in generation {newest}, and this one has "
                f"{_shown(self.list)} in generation {self.generation}: who changes the list of "
                "engines has all nodes have it, with a higher generation="
            )
        self._former = []
        for generation in range(self.generation - 1, 0, -1):
            if generation not in known:
                break
            self._former.append(known[generation].split("\n"))
        self._since.clear()

    def since(self, topic: str) -> int:
        """The generation from which on *topic* has been at this engine."""
        if not self._former:
            return self.generation
        if topic not in self._since:
            stayed = 0
            for names in self._former:
                if owner(names, topic) not in ("", self._name):
                    break
                stayed += 1
            self._since[topic] = self.generation - stayed
        return self._since[topic]


def _shown(names: str) -> str:
    return f"the engines {', '.join(names.split(chr(10)))}" if names else "one engine"


def owner(names: Sequence[str], topic: str) -> str:
    """The engine among *names* that has *topic*."""
    suffix = b"\0" + topic.encode("utf-8", "surrogatepass")
    return max(names, key=lambda name: blake2b(name.encode() + suffix, digest_size=8).digest())
