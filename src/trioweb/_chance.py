"""Where chance comes from: the operating system, or a seed in a test that must repeat its run.

Rules kept here: every random choice of trioweb is made from what this module gives, at the moment
when it is needed; generators, bytes and names have seeds of their own, so that a message more does
not change a client's jitter, nor a level of the log what is sent.

Must not know who asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random, SystemRandom
from typing import Final


class _Chance:
    """The sources of a seed; None where the operating system is the source."""

    __slots__ = ("generators", "names", "octets")

    def __init__(self) -> None:
        self.generators: Random | None = None
        self.names: Random | None = None
        self.octets: Random | None = None


# One for the process, as the scheduling of Trio is, which a seed decides, too.
_chance: Final = _Chance()
# It has no state, so that one does for all: a generator with a state takes 2.5 KiB.
_system: Final = SystemRandom()


def random_bytes(count: int) -> bytes:
    """Return bytes that nobody can guess, unless there is a seed."""
    octets = _chance.octets
    return os.urandom(count) if octets is None else octets.randbytes(count)


def random_name() -> str:
    """Return a name that nobody else has, for something that peers never see."""
    names = _chance.names
    return (os.urandom(8) if names is None else names.randbytes(8)).hex()


def new_random() -> Random:
    """Return a generator for somebody who was given none, whose numbers depend on nobody else's."""
    generators = _chance.generators
    return _system if generators is None else Random(generators.getrandbits(64))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let all chance in this block, in every thread, follow from *seed*."""
    before = _chance.generators, _chance.octets, _chance.names
    _chance.generators, _chance.octets = Random(f"{seed} generators"), Random(f"{seed} octets")
    _chance.names = Random(f"{seed} names")
    try:
        yield
    finally:
        _chance.generators, _chance.octets, _chance.names = before
