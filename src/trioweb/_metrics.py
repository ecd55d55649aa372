"""What a monitoring system is told of servers, hubs and clients: one page of text.

All of it is counted where it happens; what costs more than a look, the sum over connections and
the lag of each subscriber, is found while the page is made, some of it at a time.

NOTE: No label has a value that a peer chooses: a peer must not decide how many series are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

import trio

from ._arguments import check_kind, check_texts
from ._client import Client
from ._effort import A_TURN
from ._histogram import Histogram
from ._link import State
from ._server import Server
from ._topics import BrokerStatistics, Hub, StoreStatistics

_Samples: TypeAlias = Iterable[tuple[str, float]]

# In the units of A_TURN, quarters of a microsecond, as measured.
_COST_OF_CONNECTION: Final = 6
_COST_OF_SUBSCRIPTION: Final = 3
_LAGS: Final = (0, 1, 10, 100, 1_000, 10_000)

# Pages that are being made, by what they are of.
_under_way: dict[object, _Scrape] = {}


class _Scrape:
    """A page that is being made.

    Attributes:
        text: the page; None if it was not finished.
        over: once nobody makes it any more.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self.over = trio.Event()


async def metrics(
    server: Server | None = None,
    hub: Hub | None = None,
    client: Client | None = None,
    *,
    topics: Collection[str] = (),
) -> str:
    """Tell the numbers of a server, a hub and a client in Prometheus' text format.

    `docs/operating.md` has them all.  With tens of thousands of connections and subscribers it
    takes a while, and lets others run after each millisecond of work.

    Args:
        server, hub, client: whose; without *hub*, that of the server, if it has one.
        topics: names of topics that are told apart.  Nothing else has a label that anybody
            but the program chooses, since each value of a label is kept for ever by some.

    Returns:
        The page.  Its Content-Type is `text/plain; version=0.0.4; charset=utf-8`.

    Raises:
        TypeError: an argument cannot work.

    Cancellation: nothing is lost.  Checkpoint: always.
    Concurrency: whoever asks for a page that is being made gets the same one.
    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    check_kind("metrics", "server", server, Server, optional=True)
    check_kind("metrics", "hub", hub, Hub, optional=True)
    check_kind("metrics", "client", client, Client, optional=True)
    names = check_texts("metrics", "topics", topics)
    if hub is None and server is not None:
        hub = server._settings.hub
    key = server, hub, client, names
    await trio.lowlevel.checkpoint()
    while (other := _under_way.get(key)) is not None:
        await other.over.wait()
        if other.text is not None:
            return other.text
    scrape = _under_way[key] = _Scrape()
    try:
        page = _Page()
        if server is not None:
            await page.tell_server(server)
        if hub is not None:
            await page.tell_hub(hub, names)
        if client is not None:
            page.tell_client(client)
        scrape.text = page.text()
    finally:
        del _under_way[key]
        scrape.over.set()
    return scrape.text


def tell_store(told: StoreStatistics) -> str:
    """The part of a page that tells of a store."""
    page = _Page()
    page.tell_store(told)
    return page.text()


class _Page:
    """A page in the making."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._spent = 0

    def text(self) -> str:
        return "".join(self._lines)

    async def _rest(self) -> None:
        self._spent = 0
        await trio.lowlevel.checkpoint()

    # The format.

    def _family(self, kind: str, name: str, what: str, samples: _Samples) -> None:
        self._lines.append(f"# HELP trioweb_{name} {what}\n# TYPE trioweb_{name} {kind}\n")
        self._lines += [f"trioweb_{name}{labels} {value}\n" for labels, value in samples]

    def _gauge(self, name: str, what: str, value: float) -> None:
        self._family("gauge", name, what, [("", value)])

    def _counter(self, name: str, what: str, value: float) -> None:
        self._family("counter", f"{name}_total", what, [("", value)])

    def _counters(
        self, name: str, label: str, what: str, values: Iterable[tuple[str, int]]
    ) -> None:
        samples = [(_labels(label, value), count) for value, count in values]
        self._family("counter", f"{name}_total", what, samples)

    def _histogram(self, name: str, what: str, histogram: Histogram) -> None:
        samples: list[tuple[str, float]] = []
        count = 0
        for bound, more in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            count += more
            samples.append((f"_bucket{_labels('le', str(bound))}", count))
        samples += [("_sum", histogram.sum), ("_count", count)]
        self._family("histogram", name, what, samples)

    # Whose numbers they are.

    async def tell_server(self, server: Server) -> None:
        counts, places, monitor = server._counts, server._places, server._monitor
        # NOTE: No await between these two: of what ends meanwhile, each number is counted once.
        traffic = counts.ended.copy()
        carried = places.carried
        closing = buffered = waiting = 0
        for connection in carried:
            link = connection.link
            traffic.add(link)
            closing += link.state is not State.OPEN
            buffered += link.queue.buffered_amount
            waiting += len(link.inbox.messages)
            self._spent += _COST_OF_CONNECTION
            if self._spent >= A_TURN:
                await self._rest()
        self._family(
            "gauge",
            "connections",
            "Connections by state; opening are all other streams, those of plain HTTP included.",
            [
                (_labels("state", "opening"), places.opening),
                (_labels("state", "open"), len(carried) - closing),
                (_labels("state", "closing"), closing),
            ],
        )
        self._gauge("draining", "1 while new connections are refused.", int(server.draining))
        self._counter("connections_opened", "Connections opened.", counts.opened)
        self._counters(
            "connections_closed",
            "code",
            "Connections ended, by close code; those of applications are summed.",
            sorted(counts.closed_kinds.items()),
        )
        self._counters(
            "requests_refused",
            "status",
            "Requests refused, by HTTP status; 0 is of peers that went away before.",
            ((str(status), count) for status, count in sorted(counts.refused.items())),
        )
        self._counters(
            "requests_answered",
            "status",
            "Plain HTTP requests answered, by status.",
            ((str(status), count) for status, count in sorted(counts.answered.items())),
        )
        self._counter(
            "handler_errors", "Errors of handlers, admit and http.", counts.handler_errors
        )
        self._counter("messages_received", "Messages received.", traffic.messages_received)
        self._counter("messages_sent", "Messages sent to one peer.", traffic.messages_sent)
        self._counter(
            "messages_discarded", "Messages received that reached nobody.", traffic.discarded
        )
        self._counter(
            "received_bytes", "Bytes of frames received, without TLS.", traffic.bytes_received
        )
        self._counter("sent_bytes", "Bytes of frames sent to one peer.", traffic.bytes_sent)
        self._gauge("inbox_messages", "Messages received that wait for a handler.", waiting)
        self._gauge("buffered_bytes", "Bytes that wait for peers to take them.", buffered)
        self._histogram(
            "handshake_seconds", "From accepting a stream to its connection.", counts.handshakes
        )
        if monitor is not None:
            self._counter(
                "heartbeats_lost", "Connections aborted since the peer was silent.", monitor.lost
            )
            self._histogram(
                "loop_lateness_seconds",
                "How late the heartbeats woke up: for so long others held the loop.",
                monitor.lateness,
            )

    async def tell_hub(self, hub: Hub, names: Collection[str]) -> None:
        lags = Histogram(_LAGS)
        furthest = dict.fromkeys(names, 0)
        for turns in tuple(hub._pump.links):
            for subscription in tuple(turns.subscriptions):
                lag = subscription.lag
                lags.observe(lag)
                if furthest and lag > furthest.get(name := subscription.topic.name, lag):
                    furthest[name] = lag
                self._spent += _COST_OF_SUBSCRIPTION
                if self._spent >= A_TURN:
                    await self._rest()
        retention, counts, pump = hub._retention, hub._counts, hub._pump
        self._gauge("topics", "Topics with a log or subscribers.", len(retention.topics))
        self._gauge("topics_limit", "Topics that there may be.", retention.max_topics)
        self._gauge("subscribers", "Subscriptions.", hub._subscribers)
        self._histogram(
            "subscriber_lag",
            "Publications that subscribers are behind, at this scrape: no rate can be had of it.",
            lags,
        )
        self._gauge("retained_publications", "Publications in all logs.", retention.messages)
        self._gauge("retained_bytes", "Memory that they take.", retention.size)
        self._gauge("retained_bytes_limit", "Memory that they may take.", retention.max_bytes)
        self._counter("publications", "Publications.", hub._published)
        self._counter("deliveries", "Publications written to subscribers.", counts.deliveries)
        self._counter("delivered_bytes", "Bytes of their frames.", counts.delivered_bytes)
        self._counter("evictions", "Subscribers closed for being slow.", hub._evicted)
        self._counter(
            "skipped_publications", "Publications passed over for slow subscribers.", hub._skipped
        )
        self._counters(
            "recoveries",
            "outcome",
            "Subscriptions with a position, by whether nothing is known to be missing.",
            [("recovered", counts.recovered), ("gap", counts.gaps)],
        )
        self._counter(
            "topics_forgotten", "Topics that went to make room for others.", retention.forgotten
        )
        self._histogram("turn_seconds", "For how long delivery held the loop.", pump.turns)
        if hub.broker is not None:
            self._tell_broker(hub.broker)
        if hub.store is not None:
            self.tell_store(hub.store)
        if names:
            self._tell_topics(hub, furthest)

    def _tell_broker(self, told: BrokerStatistics) -> None:
        self._gauge("broker_connected", "1 while the broker can be reached.", int(told.connected))
        self._gauge("broker_waiting", "Publications that it has not answered yet.", told.waiting)
        self._gauge("broker_topics", "Topics that are received from it.", told.attached)
        self._counter("broker_attempts", "Attempts to connect to it.", told.attempts)
        self._counter("broker_connects", "Connections made to it.", told.connects)
        self._counter("broker_refused", "Publications that it has refused.", told.refused)
        self._counter("broker_restarts", "Epochs that have ended here.", told.restarts)

    def tell_store(self, told: StoreStatistics) -> None:
        self._gauge("store_failing", "1 while nothing can be committed.", int(bool(told.failing)))
        self._gauge("store_waiting", "Records in the journal alone.", told.waiting)
        self._gauge("store_waiting_bytes", "Bytes of them.", told.waiting_bytes)
        self._gauge("store_waiting_bytes_limit", "Bytes of the journal.", told.max_waiting_bytes)
        self._gauge("store_topics", "Topics whose position is known.", told.topics)
        self._gauge("store_bytes", "Memory that what is committed would take.", told.bytes)
        self._counter("store_forgotten", "Topics that had to go for others.", told.forgotten)
        self._gauge("store_replayed", "Records replayed at the start.", told.replayed)
        self._gauge("store_ended", "1 if the start ended all epochs.", int(bool(told.ended)))

    def _tell_topics(self, hub: Hub, furthest: dict[str, int]) -> None:
        topics = hub._retention.topics
        found = [(_labels("topic", name), topics[name]) for name in furthest if name in topics]
        self._family(
            "gauge", "topic_head", "Offset of the newest.", ((at, t.head) for at, t in found)
        )
        self._family(
            "gauge", "topic_subscribers", "Of a topic.", ((at, t.subscribers) for at, t in found)
        )
        self._family(
            "gauge", "topic_retained_bytes", "Of a topic.", ((at, t.size) for at, t in found)
        )
        self._family(
            "gauge",
            "topic_lag_max",
            "Publications that its furthest subscriber is behind.",
            ((at, furthest[t.name]) for at, t in found),
        )

    def tell_client(self, client: Client) -> None:
        told = client.statistics()
        self._family(
            "gauge",
            "client_state",
            "1 for the state in which it is.",
            ((_labels("state", state.name.lower()), int(client.state is state)) for state in State),
        )
        self._counter("client_attempts", "Attempts to connect.", told.attempts)
        self._counter("client_sessions", "Attempts that led to a connection.", told.sessions)
        self._counter("client_messages_accepted", "Messages that send took.", told.accepted)
        self._counter("client_messages_resent", "Messages written again.", told.resent)
        self._counter("client_messages_dropped", "Messages that left a full outbox.", told.dropped)
        self._counter(
            "client_messages_undelivered", "Messages given up (max_resends).", told.undelivered
        )
        self._counter("client_messages_received", "Messages received.", told.received)
        self._counter("client_messages_discarded", "Of those, that reached nobody.", told.discarded)
        self._gauge("client_outbox_messages", "Messages in the outbox.", told.unsent)
        self._gauge("client_outbox_bytes", "Bytes in the outbox.", client.buffered_amount)


def _labels(name: str, value: str) -> str:
    for character, escaped in ("\\", r"\\"), ("\n", r"\n"), ('"', r"\""):
        value = value.replace(character, escaped)
    return f'{{{name}="{value}"}}'
