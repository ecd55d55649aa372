"""Positions: how far somebody has a topic, and what somebody who comes back there has missed.

Pure: knows of no topic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from .._arguments import is_count
from .._dataclass import dataclass


class Position(NamedTuple):
    """How far somebody has a topic.

    Attributes:
        epoch: which life of the topic.
        offset: of the last publication that they have; 0 for none.
    """

    epoch: str
    offset: int


# A tuple of both takes half the time.
new_position: Final[Callable[[tuple[str, int]], Position]] = partial(tuple.__new__, Position)
# What a peer says of its position; of which life an offset alone is, nobody can tell.
Since: TypeAlias = Position | tuple[str, int] | int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What somebody who comes back gets.

    Attributes:
        position: behind which delivery starts: `subscribe(since=position)` begins just there.
        recovered: whether provably nothing is missing in front of that.
        missing: how many publications are known to be missing.
    """

    position: Position
    recovered: bool
    missing: int


def find_start(
    epoch: str, first: int, head: int, since: Since | None, history: int, begin: int = 0
) -> Recovery:
    """Where somebody starts in a log.

    Args:
        epoch: of the topic's life.
        first, head: the offsets of the oldest publication that is retained, and of the newest.
        since, history: where it would like to start; see `Topic.subscribe`.
        begin: the offset behind which that life began.
    """
    if since is None:
        cursor = max(first - 1, head - history)
        return Recovery(Position(epoch, cursor), recovered=True, missing=0)
    if isinstance(since, tuple):
        its_epoch, offset = since
        is_ours = is_sure = its_epoch == epoch and offset <= head
    else:
        # The offset may be of another life, of which nothing else tells.
        offset, is_ours, is_sure = since, since <= head, since == 0
    if not is_ours:
        # In another life; of this one the peer has nothing.
        cursor = first - 1
        missing = max(0, cursor - begin)
        return Recovery(Position(epoch, cursor), recovered=False, missing=missing)
    cursor = max(offset, first - 1)
    return Recovery(
        Position(epoch, cursor), recovered=is_sure and cursor == offset, missing=cursor - offset
    )


def check_place(since: Since | None, history: int) -> None:
    """Raise ValueError unless *since* and *history* say where to start."""
    if not is_count(history):
        raise ValueError(f"history={history!r}: must be 0 or more publications")
    if since is not None and history:
        raise ValueError(f"since={since!r}, history={history!r}: only one of them can be")
    match ("", 0) if since is None else since if isinstance(since, tuple) else ("", since):
        case (str(), offset) if is_count(offset):
            pass
        case _:
            raise ValueError(f"since={since!r}: must be an offset or (epoch, offset)")
