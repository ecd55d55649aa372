"""What a hub tells of its store.  Apart, as hubs without one need no SQLite."""

from __future__ import annotations

from ..._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a hub's store holds.

    Attributes:
        topics: of which the position is known, used or not, now.
        bytes: memory that the publications in the database would take, now.
        waiting: records in the journal that are not in the database yet, now.
        waiting_bytes, max_waiting_bytes: what these take, and may take.
        forgotten: topics whose publications had to go for those of others, so far.
        replayed: records that were only in the journal when the store was opened.
        ended: why every topic began a new epoch when it was opened; None if they went on.
        failing: why nothing can be committed now; None if it can.
    """

    topics: int
    bytes: int
    waiting: int
    waiting_bytes: int
    max_waiting_bytes: int
    forgotten: int
    replayed: int
    ended: str | None
    failing: str | None
