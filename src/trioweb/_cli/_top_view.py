"""How `trioweb top` looks: figures, and a table each of topics and connections.  Needs rich."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._terminal import escape
from ._top_options import CONNECTION_SORTS, TOPIC_SORTS

if TYPE_CHECKING:
    from .._topic_client import TopicClient

_ASCENDING: Final = ("name", "address", "user")
_LONGEST: Final = 40


def count(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}".removesuffix(".0")


def size(value: float) -> str:
    for unit in "B", "KiB", "MiB":
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def duration(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.1f} ms"
    for limit, divisor, unit in (90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h"):
        if value < limit:
            return f"{value / divisor:.0f} {unit}"
    return f"{value / 86_400:.0f} d"


def words(value: object) -> str:
    """What a peer may have chosen, as a terminal can have it."""
    text = escape(", ".join(value) if isinstance(value, list) else str(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


_TOPICS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "name": ("Topic", words),
    "rate": ("Rate /s", count),
    "head": ("Head", count),
    "retained": ("Retained", count),
    "bytes": ("Memory", size),
    "subscribers": ("Subscribers", count),
    "lag": ("Lag", count),
}
_CONNECTIONS: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "address": ("Address", words),
    "user": ("User", words),
    "topics": ("Subscribed to", words),
    "age": ("Age", duration),
    "rtt": ("RTT", duration),
    "queued": ("Queued", size),
    "lag": ("Lag", count),
    "received": ("Received", count),
    "id": ("Id", words),
}
_WORDS: Final = ("name", "address", "user", "topics", "id")


class View:
    """What is shown, and in which order.

    Args:
        topics, connections: the columns that they are put in order by.
    """

    def __init__(self, topics: str, connections: str) -> None:
        self._topic_sort = topics
        self._connection_sort = connections
        self._is_reversed = False
        self._topics: Any = {"total": 0, "rows": []}
        self._connections: Any = {"total": 0, "rows": []}

    def press(self, key: str) -> None:
        """A key was pressed: s and c change the order, r reverses it."""
        match key:
            case "s":
                self._topic_sort = _next(TOPIC_SORTS, self._topic_sort)
            case "c":
                self._connection_sort = _next(CONNECTION_SORTS, self._connection_sort)
            case "r":
                self._is_reversed = not self._is_reversed

    async def ask(self, client: TopicClient, rows: int) -> None:
        """Have *client* ask for the lists, of at most so many rows each."""
        self._topics = await client.call("topics", self._query(self._topic_sort, rows))
        connections = self._query(self._connection_sort, rows)
        self._connections = await client.call("connections", connections)

    def _query(self, sort: str, rows: int) -> dict[str, Any]:
        descending = (sort not in _ASCENDING) is not self._is_reversed
        return {"sort": sort, "descending": descending, "limit": min(rows, 200)}

    def waiting(self, what: str) -> str:
        return f"trioweb top: {what}; q quits"

    def render(self, figures: Mapping[str, Any], width: int, *, is_live: bool) -> str:
        """All of it as text, with colours where it is live."""
        file = io.StringIO()
        plain = bool(os.environ.get("NO_COLOR")) or not is_live
        console = Console(
            file=file, width=width, force_terminal=is_live, no_color=plain, highlight=False
        )
        others = "" if figures["alone"] else " (shares topics with nodes that are not shown)"
        state = "draining" if figures["draining"] else "up"
        lines = [
            f"{_whose(figures)}{others}, {state} for {duration(figures['uptime'])}",
            f"publications {count(figures['publication_rate'])}/s, deliveries "
            f"{count(figures['delivery_rate'])}/s, connections {count(figures['connections'])}, "
            f"subscriptions {count(figures['subscribers'])}, furthest lag {count(figures['lag'])}",
            f"queued {size(figures['queued'])}, retained {size(figures['retained'])}, slow "
            f"consumers closed {count(figures['evicted'])}, requests refused "
            f"{count(figures['refused'])}, errors {count(figures['errors'])}, loop late by "
            f"{duration(figures['late'])}",
        ]
        for line in lines:
            console.print(Text(line, style="bold" if line is lines[0] else "", overflow="fold"))
        self._print(console, "Topics", self._topics, _TOPICS, self._topic_sort)
        self._print(console, "Connections", self._connections, _CONNECTIONS, self._connection_sort)
        if is_live:
            console.print(
                Text("s, c: order of topics, of connections; r: reverse; q: quit", style="dim")
            )
        return file.getvalue()

    def _print(
        self,
        console: Console,
        title: str,
        told: Mapping[str, Any],
        columns: Mapping[str, tuple[str, Callable[[Any], str]]],
        sort: str,
    ) -> None:
        rows = told["rows"]
        shown = f", {len(rows)} shown" if len(rows) < told["total"] else ""
        console.print(Text(f"\n{title}: {count(told['total'])}{shown}, by {sort}", style="bold"))
        if any("worker" in row for row in rows):
            columns = {**columns, "worker": ("Worker", str)}
        table = Table(box=None, pad_edge=False, show_edge=False)
        for name, (heading, _) in columns.items():
            table.add_column(
                Text(heading, style="bold underline" if name == sort else "bold"),
                justify="left" if name in _WORDS else "right",
                no_wrap=True,
            )
        for row in rows:
            table.add_row(*(Text(show(row[name])) for name, (_, show) in columns.items()))
        console.print(table)


def _whose(figures: Mapping[str, Any]) -> str:
    """What is shown: one process, or all workers of a parent."""
    node = escape(figures["node"])
    if "workers" not in figures:
        return f"{node} alone"
    shown = ", ".join(map(str, figures["workers"]))
    silent = ", ".join(map(str, figures["silent"]))
    missing = f", without what does not answer ({silent})" if silent else ""
    return f"workers {shown} together{missing}, told by worker {figures['worker']} on {node}"


def _next(names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]
