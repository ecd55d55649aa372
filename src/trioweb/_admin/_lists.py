"""Lists of topics and connections: the first of very many, by any of their columns.

NOTE: To go over all of them takes longer than others may wait, so they have their turns after each
millisecond.  What is told of each is made for those alone that are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

import trio

from .._centrifuge._codes import ErrorCode
from .._connection import Connection
from .._dataclass import dataclass
from .._effort import A_TURN
from .._protocol._http import format_address
from .._refusals import Refuse
from .._topics import Hub, Publication, Topic

_T = TypeVar("_T")
Row: TypeAlias = dict[str, Any]
Key: TypeAlias = Callable[[_T], Any]

MOST_ROWS: Final = 200
_USUAL_ROWS: Final = 50
# So many are put in order at a time with the first ones so far.
_CHUNK: Final = 256
# In the units of A_TURN, quarters of a microsecond, as measured.
_COST_OF_ONE: Final = 8
_COST_OF_SEARCH: Final = 24
_COST_OF_ROW: Final = 40
# Of what a peer has chosen so much is told, but for the name of a topic, by which it is known.
_SHOWN_CHARS: Final = 200
_SHOWN_TOPICS: Final = 10
_SHOWN_OF_PUBLICATION: Final = 2000


@dataclass(frozen=True, slots=True)
class Query:
    """What a list is to show.

    Args:
        sort: the column.
        descending: the greatest first.
        search: only what has this in it; "" for all.
        limit: so many rows at most.
    """

    sort: str
    descending: bool
    search: str
    limit: int

    @classmethod
    def of(cls, data: object, columns: Iterable[str], usual: str) -> Query:
        """What somebody has asked for.

        Raises:
            Refuse: that cannot be.
        """
        given = data if isinstance(data, dict) else {}
        query = cls(
            given.get("sort", usual),
            given.get("descending", True),
            given.get("search", ""),
            given.get("limit", _USUAL_ROWS),
        )
        is_count = isinstance(query.limit, int) and 1 <= query.limit <= MOST_ROWS
        if not (isinstance(query.search, str) and isinstance(query.descending, bool) and is_count):
            raise Refuse(ErrorCode.BAD_REQUEST, "sort, descending, search and limit (to 200)")
        if query.sort not in columns:
            raise Refuse(ErrorCode.BAD_REQUEST, "no such column")
        return query


class Turns:
    """Lets others run when what was done has come to a millisecond."""

    def __init__(self) -> None:
        self._spent = 0

    async def spend(self, cost: int) -> None:
        self._spent += cost
        if self._spent >= A_TURN:
            self._spent = 0
            await trio.lowlevel.checkpoint()


class Listing(Generic[_T]):
    """A list of some kind.

    Args:
        columns: those that it can be put in order by.
        words: what a search looks into.
        row: what is told of one.
    """

    def __init__(
        self,
        columns: Mapping[str, Key[_T]],
        words: Callable[[_T], Iterable[str]],
        row: Callable[[_T], Row],
    ) -> None:
        self._columns = columns
        self._words = words
        self._row = row

    async def take(self, items: Iterable[_T], query: Query) -> Row:
        """The rows that *query* asks for, how many were found, and how many there are.

        Checkpoint: after each millisecond of work.
        """
        turns = Turns()
        wanted = query.search.casefold()
        key = self._columns[query.sort]
        first: list[tuple[Any, _T]] = []
        chunk: list[tuple[Any, _T]] = []
        total = found = 0

        def place() -> None:
            first.extend(chunk)
            chunk.clear()
            first.sort(key=lambda pair: pair[0], reverse=query.descending)
            del first[query.limit :]

        for item in items:
            total += 1
            if wanted:
                await turns.spend(_COST_OF_SEARCH)
                if not any(wanted in word.casefold() for word in self._words(item)):
                    continue
            found += 1
            chunk.append((key(item), item))
            await turns.spend(_COST_OF_ONE)
            if len(chunk) >= _CHUNK:
                place()
        place()
        rows = []
        for _, item in first:
            rows.append(self._row(item))
            await turns.spend(_COST_OF_ROW)
        return {"total": total, "found": found, "rows": rows}


def topic_list(rates: Mapping[str, float]) -> Listing[Topic]:
    """The list of topics, which publish at these *rates*."""

    def rate(topic: Topic) -> float:
        return rates.get(topic.name, 0.0)

    columns: dict[str, Key[Topic]] = {
        "name": lambda topic: topic.name,
        "rate": lambda topic: (rate(topic), topic.head),
        "head": lambda topic: topic.head,
        "retained": lambda topic: topic.retained,
        "bytes": lambda topic: topic.size,
        "subscribers": lambda topic: topic.subscribers,
        "lag": lambda topic: topic.lag,
    }

    def row(topic: Topic) -> Row:
        return {
            "name": topic.name,
            "rate": round(rate(topic), 2),
            "head": topic.head,
            "retained": topic.retained,
            "bytes": topic.size,
            "subscribers": topic.subscribers,
            "lag": topic.lag,
        }

    return Listing(columns, lambda topic: (topic.name,), row)


TOPIC_COLUMNS: Final = ("name", "rate", "head", "retained", "bytes", "subscribers", "lag")
CONNECTION_COLUMNS: Final = (
    "address",
    "user",
    "age",
    "rtt",
    "queued",
    "subscriptions",
    "lag",
    "received",
    "sent",
)


def connection_list(
    hub: Hub,
    users: Mapping[Connection, str],
    traced: Iterable[Connection],
) -> Listing[Connection]:
    """The list of connections.

    Args:
        users: who members of a topic server are.
        traced: those whose frames are logged.
    """
    now = trio.current_time()
    logged = set(traced)

    def user(connection: Connection) -> str:
        known = users.get(connection)
        if known is None:
            known = "" if connection.user is None else str(connection.user)
        return known[:_SHOWN_CHARS]

    def lag(connection: Connection) -> int:
        return max((each.lag for each in hub.subscriptions(connection)), default=0)

    columns: dict[str, Key[Connection]] = {
        "address": lambda connection: format_address(connection.remote),
        "user": user,
        "age": lambda connection: now - connection.opened_at,
        "rtt": lambda connection: connection.latency or 0.0,
        "queued": lambda connection: connection.buffered_amount,
        "subscriptions": lambda connection: len(hub.subscriptions(connection)),
        "lag": lag,
        "received": lambda connection: connection.statistics().messages_received,
        "sent": lambda connection: connection.statistics().messages_sent,
    }

    def words(connection: Connection) -> Iterable[str]:
        yield format_address(connection.remote)
        yield connection.id
        yield user(connection)
        for subscription in hub.subscriptions(connection)[:_SHOWN_TOPICS]:
            yield subscription.topic.name

    def row(connection: Connection) -> Row:
        subscriptions = hub.subscriptions(connection)
        told = connection.statistics()
        return {
            "id": connection.id,
            "address": format_address(connection.remote),
            "user": user(connection),
            "path": connection.request.path[:_SHOWN_CHARS],
            "protocol": connection.subprotocol or "",
            "age": round(now - connection.opened_at, 1),
            "rtt": None if connection.latency is None else round(connection.latency, 4),
            "queued": told.buffered_amount,
            "inbox": told.inbox_messages,
            "received": told.messages_received,
            "sent": told.messages_sent,
            "topics": [each.topic.name for each in subscriptions[:_SHOWN_TOPICS]],
            "subscriptions": len(subscriptions),
            "lag": max((each.lag for each in subscriptions), default=0),
            "traced": connection in logged,
        }

    return Listing(columns, words, row)


def publication_row(publication: Publication) -> Row:
    """What is told of a publication: a message that is long, or no text, in part."""
    message = publication.message
    if isinstance(message, bytes):
        size = len(message)
        shown = message[: _SHOWN_CHARS // 2].hex(" ")
        is_cut = size > _SHOWN_CHARS // 2
    else:
        size, shown = len(message.encode()), message[:_SHOWN_OF_PUBLICATION]
        is_cut = len(message) > _SHOWN_OF_PUBLICATION
    publisher = publication.publisher
    return {
        "offset": publication.offset,
        "kind": publication.kind,
        "text": shown,
        "cut": is_cut,
        "bytes": size,
        "publisher": "" if publisher is None else publisher.id[:_SHOWN_CHARS],
    }
