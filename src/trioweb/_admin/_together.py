"""What several workers say of themselves, as one: figures, and lists.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from ._lists import Query, Row

# Of these each worker has what reaches it, and topics reach several: the sum would count them
# twice.  The most that one has is right where busy topics have subscribers at each.
_LARGEST: Final = frozenset({"topics", "publications", "publication_rate", "lag", "late", "uptime"})
# Those of the worker that is asked.
_OWN: Final = frozenset({"time", "node", "alone", "draining"})
# Of a topic, as several workers have it, all else is the same, or that of the one furthest on.
_ADDED: Final = frozenset({"subscribers", "bytes"})


class Colleagues(Protocol):
    """The other workers of a server.

    Attributes:
        number: of this worker, from 1 on.
        are_all: no process but these workers has a part in the topics.
    """

    @property
    def number(self) -> int: ...

    @property
    def are_all(self) -> bool: ...

    async def ask(self, what: str, data: Row) -> Sequence[tuple[int, Any]]:
        """Have each of the others do what `Admin.perform` does.

        Returns:
            The number of each, and its answer; None if it has none, or not in time.
        """


def add_figures(own: Row, others: Sequence[tuple[int, Row | None]], number: int) -> Row:
    """The figures of all workers: *own*, those of worker *number*, and what the others told."""
    heard = [row for _, row in others if row is not None]
    total = dict(own)
    for name in own.keys() - _OWN:
        values = [row[name] for row in (own, *heard) if row[name] is not None]
        if values:
            total[name] = round(max(values) if name in _LARGEST else sum(values), 4)
    total["worker"] = number
    total["workers"] = sorted({number, *(who for who, row in others if row is not None)})
    total["silent"] = sorted({who for who, row in others if row is None} - {*total["workers"]})
    return total


def add_topics(own: Row, others: Sequence[tuple[int, Row | None]], query: Query) -> Row:
    """The topics of all workers, each once, as `Listing.take` has them."""
    told = [own, *(row for _, row in others if row is not None)]
    topics: dict[str, Row] = {}
    for row in (row for one in told for row in one["rows"]):
        known = topics.get(row["name"])
        topics[row["name"]] = row if known is None else _as_one(known, row)

    def key(row: Row) -> Any:
        return (row["rate"], row["head"]) if query.sort == "rate" else row[query.sort]

    # How many different ones there are beyond those that were told nobody knows.
    return {
        **_first(list(topics.values()), key, query),
        **{count: max(len(topics), *(one[count] for one in told)) for count in ("total", "found")},
    }


def _as_one(one: Row, other: Row) -> Row:
    """A topic, as two workers have it."""
    added = {name: one[name] + other[name] for name in _ADDED}
    return {name: max(value, other[name]) for name, value in one.items()} | added


def add_connections(
    own: Row, others: Sequence[tuple[int, Row | None]], query: Query, number: int
) -> Row:
    """The connections of all workers, each with its `worker`, as `Listing.take` has them."""
    told = [(number, own), *((who, row) for who, row in others if row is not None)]
    rows = [{**row, "worker": who} for who, one in told for row in one["rows"]]

    def key(row: Row) -> Any:
        return row[query.sort] or 0.0 if query.sort == "rtt" else row[query.sort]

    counts = {count: sum(one[count] for _, one in told) for count in ("total", "found")}
    return {**_first(rows, key, query), **counts}


def _first(rows: list[Row], key: Any, query: Query) -> Row:
    rows.sort(key=key, reverse=query.descending)
    return {"rows": rows[: query.limit]}
