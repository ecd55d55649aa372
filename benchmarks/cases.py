"""The questions, the peers that they are put to, and the answers that are expected."""

import operator
from dataclasses import dataclass

from .clients import CLIENTS
from .imports import STATEMENTS
from .peers import BARE_TRIO, FLOOR, FLOOR_AT_ONCE, OURS, PEERS
from .servers import SERVERS
from .storm import STORM
from .task import Task

_RELATIONS = {"<": operator.lt, "≤": operator.le, "≥": operator.ge}
_PICOWS = ("picows", "picows+uvloop")
_WEBSOCKETS_TRIO = "websockets (Trio)"
_COST = "CPU for each delivery"
_FLOORS = (FLOOR, FLOOR_AT_ONCE)
_OTHERS = tuple(peer for peer in PEERS if peer not in (OURS, *_FLOORS, BARE_TRIO))
_BUT_PICOWS = tuple(peer for peer in _OTHERS if peer not in _PICOWS)
# Those to whom a message at a time can be put.
_SINGLY = tuple(peer for peer in SERVERS if peer not in (FLOOR_AT_ONCE, BARE_TRIO))
# Of the many cases of one kind, those that come last are put to these alone: the others have
# shown where they stand, and take long.
_FAST = (OURS, FLOOR, "aiohttp+uvloop", *_PICOWS, "nginx nchan")

# What the figures of a measurement mean; `table` names those that a case shows.
UNITS = {
    "cpu": "µs of CPU for each delivery",
    "rate": "thousand messages in a second of CPU",
    "p50": "µs, median",
    "p99": "ms, 99 of 100 within",
    "open and close": "µs of CPU to open a connection and close it",
    "open": "µs of CPU to open one",
    "close": "µs of CPU to close one",
    "caught up": "ms until the last has caught up",
    "storm": "µs of CPU for each that comes back, with what is live meanwhile",
    "live p99": "ms, 99 of 100 live messages within meanwhile",
    "publish": "CPU of publishing through a Redis ÷ that of a bare loop",
    "attach": "CPU of attaching 10,000 topics ÷ that of a bare loop",
    "resync": "CPU of that after a connection was lost ÷ that of a bare loop",
    "delivery": "CPU of a delivery to 500 with a broker ÷ without",
    "node to node": "median from node to node ÷ that in process",
    "hub-memory": "bytes of private memory for each of the bound",
    "import": "ms of CPU",
    "import beyond Trio": "ms of CPU beyond Trio's",
    "share": "% of a core",
    "memory": "KiB of private memory for each",
    "reconnect": "ms beyond the policy's own delay (median)",
    "idle-client": "KiB of private memory for each",
    "stalled": "KiB of private memory more for each stalled one",
    "evicted": "KiB in use more for each, once they are evicted",
    "json ÷ plain": "CPU of a delivery to a member in JSON ÷ to a plain subscriber",
    "protobuf ÷ plain": "CPU of a delivery to a member in Protobuf ÷ to a plain subscriber",
    "events ÷ plain": "CPU of a delivery over Server-Sent Events ÷ to a plain subscriber",
    "json ÷ opening": "CPU of a member in JSON that comes back ÷ of opening its connection",
    "protobuf ÷ opening": "CPU of a member in Protobuf that comes back ÷ of opening its connection",
    "json beyond plain": "KiB of private memory more for a member in JSON",
    "protobuf beyond plain": "KiB of private memory more for a member in Protobuf",
    "p99 beside": "p99 beside stalled ones ÷ p99 without",
}


@dataclass(frozen=True)
class Bar:
    """What must hold for our figure: as a ratio to the best of some peers, or by itself.

    Args:
        against: the peers; ourselves if the figure is to be judged by itself.
        relation: "<" and "≤" say that less is better, "≥" that more is.
        limit: of the ratio, or of the figure.
        name: of the peers together.
        figure: which one, if it is not the first of the case.
    """

    against: tuple[str, ...]
    relation: str
    limit: float
    name: str = ""
    figure: str = ""

    def holds(self, value: float) -> bool:
        return bool(_RELATIONS[self.relation](value, self.limit))

    @property
    def label(self) -> str:
        return self.name or self.against[0]

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:.3g}"


@dataclass(frozen=True)
class Case:
    """One question.

    Args:
        title: of the question, for the tables.
        task: how it is measured.
        figures: the figures that the tables show, of `UNITS`.
        peers: whom it is put to.
        bars: what must hold.
        took: seconds that one measurement takes, about.
        rounds: at most, where more would take too long.
        headline: what it is called in the short table; "" if it is not there.
        bound: what keeps a bar out of reach, where something does.
    """

    title: str
    task: Task
    figures: tuple[str, ...]
    peers: tuple[str, ...]
    bars: tuple[Bar, ...]
    took: float = 1
    rounds: int = 100
    headline: str = ""
    bound: str = ""


def _ours(relation: str, limit: float, figure: str = "") -> Bar:
    return Bar((OURS,), relation, limit, figure=figure)


def _size(size: int) -> str:
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} bytes"


def _short(size: int) -> str:
    return f"{size // 1024}k" if size >= 1024 else str(size)


_BESIDE_THE_WRITE = (
    "Taken apart in one process, in turn with a bare loop over the same 500 sockets: a publication "
    "takes 1.15 to 1.22 of that loop. 0.06 of it is the call of each queue, 0.03 the look at each "
    "subscription, 0.04 the count of what was written, and 0.06 what a publication costs once: its "
    "place in the log, and the passes of Trio's loop to the hub's task and back, which no cache "
    "holds after 500 writes. What Python can do at all, tried apart, takes 1.11 to 1.14: a loop "
    "with the `send` of each socket at hand, which looks at nobody and only notes each cursor. "
    "Between two processes, beside other work, the same ratio goes from 1.0 to 1.6."
)


def _fan_out(connections: int, size: int) -> Case:
    return Case(
        f"Fan-out to {connections:,} subscribers, {_size(size)}, one publication at a time",
        Task("publish", connections=connections, size=size),
        ("cpu",),
        _FAST if connections > 1000 and size > 64 else _SINGLY,
        # To so few, what a publication costs once is most of it: shown, but not judged.
        (
            Bar((FLOOR,), "≤", 1.1),
            Bar(("picows+uvloop",), "<", 1),
            Bar(_BUT_PICOWS, "<", 1, "the best peer but picows"),
        )
        if connections >= 500
        else (),
        took=1 if connections < 1000 else 3.5,
        headline=f"{_COST}, {connections:,} subscribers, {_size(size)}"
        if connections >= 500 and size == 64
        else "",
        bound=_BESIDE_THE_WRITE,
    )


_DOORS = ("json ÷ plain", "protobuf ÷ plain", "events ÷ plain")
_RETURNS = ("json ÷ opening", "protobuf ÷ opening")
_BEYOND = ("json beyond plain", "protobuf beyond plain")


def _members(burst: int) -> Case:
    how = "one publication at a time" if burst == 1 else f"bursts of {burst} publications"
    return Case(
        "Members of a topic server, streams of events, and plain subscribers: 500 of each, frames"
        f" of 128 bytes, {how}",
        Task("members", connections=500, size=128, burst=burst),
        _DOORS,
        (OURS,),
        tuple(_ours("≤", 1.15, figure) for figure in _DOORS),
        took=5,
        bound="What a publication costs once is shared by few in a burst: to take a value of the "
        "program's, check it and encode it takes 5 µs more in JSON and 6 in Protobuf than a plain "
        "text does, beside 500 deliveries of some 0.09 each."
        if burst == 100
        else "",
    )


_COPYING = (
    "What is left is the kernel's copying: see the floor in bursts, which joins the frames of a "
    "burst and sends them with one call."
)


def _burst(burst: int, size: int, limit: float) -> Case:
    return Case(
        f"Fan-out to 500 subscribers, {_size(size)}, bursts of {burst} publications",
        Task("publish", connections=500, size=size, burst=burst),
        ("cpu",),
        (*_FAST, FLOOR_AT_ONCE)
        if size > 64
        else tuple(peer for peer in SERVERS if peer not in (_WEBSOCKETS_TRIO, BARE_TRIO)),
        (Bar(_OTHERS, "≤", 1 / limit, "the best peer"),),
        took=1 if burst < 100 else 2.2,
        headline=f"{_COST}, 500 subscribers, bursts of {burst}"
        if burst == 100 and size == 64
        else "",
        bound="" if size == 64 else _COPYING,
    )


_LOOK = (
    "Two thirds of what a message takes that is there already are Trio's look for a cancellation, "
    "which every call owes: in one process an `async for` over a deque takes 128 ns of CPU, one "
    "with nothing but that look in it 358, and ours 361. `receive_many` looks once for all."
)


def _client(size: int, *bars: Bar, resilient: bool = False) -> Case:
    ours = "client that would reconnect (open_client)" if resilient else "client"
    return Case(
        f"One {ours} receives messages of {_size(size)}",
        Task("client", size=size, resilient=resilient),
        ("rate",),
        (OURS, "websockets") if resilient else tuple(CLIENTS),
        bars,
        took=1,
        headline=""
        if resilient or size > 64
        else f"messages of {_size(size)} a client receives in a second",
        bound="" if resilient or size > 64 else _LOOK,
    )


# nginx serves no handlers, and the floor handles nothing.
_HANDLING = tuple(peer for peer in SERVERS if peer not in (*_FLOORS, BARE_TRIO, "nginx nchan"))
_HOLDING = tuple(peer for peer in SERVERS if peer not in (*_FLOORS, BARE_TRIO))


def _receive(size: int, *bars: Bar) -> Case:
    return Case(
        f"A server receives masked messages of {_size(size)} on one connection",
        Task("receive", size=size),
        ("rate",),
        _HANDLING,
        bars,
        took=1,
        headline=""
        if size > 64
        else f"masked messages of {_size(size)} a server receives in a second",
        bound="" if size > 64 else _LOOK,
    )


CASES = {
    **{
        f"fan-out-{connections}-{_short(size)}": _fan_out(connections, size)
        for connections, size in ((50, 64), (500, 64), (500, 1024), (5000, 64), (5000, 1024))
    },
    **{
        f"burst-{burst}-{_short(size)}": _burst(burst, size, limit)
        for size in (64, 1024)
        for burst, limit in ((10, 5), (100, 30))
    },
    "latency": Case(
        "From publishing to receiving: 1,000 subscribers, 100 publications a second, 64 bytes",
        Task("latency", connections=1000, seconds=3),
        ("p99",),
        _SINGLY,
        (Bar((FLOOR,), "≤", 1.1), Bar(_OTHERS, "<", 1, "the best peer")),
        took=4.5,
        headline="from publishing to receiving, 1,000 subscribers: 99 of 100 within",
        bound="A pass over all subscribers takes most of the time between two publications, and "
        "the kernel takes most of the pass: see the floor. A loop of `write` calls in C, tried "
        "apart, had the same 99th percentile, so who is at the floor differs by luck.",
    ),
    "client-64": _client(64, Bar(("websockets",), "≥", 4), Bar(("aiohttp",), "≥", 2.2)),
    "client-16k": _client(16384, Bar(("websockets",), "≥", 2)),
    "client-resilient": _client(64, Bar(("websockets",), "≥", 4), resilient=True),
    "client-many-64": Case(
        "One client receives messages of 64 bytes, all that have arrived at once (`receive_many`)",
        Task("client", many=True),
        ("rate",),
        (OURS, *_PICOWS),
        (Bar(("picows",), "≥", 1),),
    ),
    "receive-64": _receive(64, Bar(("websockets",), "≥", 3), Bar(("aiohttp",), "≥", 3)),
    "receive-16k": _receive(16384, Bar(("websockets",), "≥", 1)),
    "receive-many-64": Case(
        "A server receives masked messages of 64 bytes on one connection, all that have arrived at"
        " once (`receive_many`)",
        Task("receive", many=True),
        ("rate",),
        (OURS, *_PICOWS),
        (Bar(("picows",), "≥", 1),),
    ),
    "echo-1": Case(
        "Echo of 64 bytes over one connection",
        Task("echo"),
        ("p50",),
        (*_HANDLING, BARE_TRIO),
        (Bar(("trio-websocket",), "≤", 0.8), Bar((BARE_TRIO,), "≤", 1.7)),
        headline="echo over one connection: median",
        bound="One task reads for all connections of a server, so that an idle one needs none: a "
        "message then takes two passes of Trio's loop, one to read it and one to run its handler. "
        "To read in the loop's I/O phase (`trio.abc.Instrument.after_io_wait`), tried apart, took "
        "0.91 of the time, and as much CPU as before over 100 and 5,000 connections. A task that "
        "reads for itself, as the bare loop's, takes more CPU where there are many: see the next "
        "case.",
    ),
    "echo-100": Case(
        "Echo of 64 bytes over 100 connections",
        Task("echo", connections=100),
        ("rate",),
        (*_HANDLING, BARE_TRIO),
        (
            Bar(("trio-websocket",), "≥", 4),
            Bar(("websockets",), "≥", 2.5),
            Bar(("aiohttp+uvloop",), "≥", 1),
        ),
        headline="echoes in a second over 100 connections",
        bound="A bare loop of Trio, with nothing around its sockets, has no more: see there. Of an "
        "echo, waking the task that waits, two steps of Trio's loop for a batch and the system "
        "calls are Trio's and the kernel's; uvloop has the former in C.",
    ),
    "connections": Case(
        "Opening connections and closing them",
        Task("connections", connections=1000),
        ("open and close", "open", "close"),
        _HOLDING,
        (
            Bar(("trio-websocket",), "≤", 0.67, figure="open"),
            Bar(("websockets",), "≤", 1),
        ),
        took=1.8,
        headline="opening and closing connections",
        bound="A quarter of it is the kernel's. The rest is Python on both sides, and moves with "
        "what else the machine does: rounds of one run went from 0.79 to 1.27, and five rounds of "
        "three peers alone, on the same day, had a median of 0.92.",
    ),
    "import": Case(
        "Importing the package",
        Task("import"),
        ("import", "import beyond Trio"),
        tuple(STATEMENTS),
        (_ours("≤", 60, "import beyond Trio"),),
        took=5,
        bound="It is 137 modules of our own: a quarter is finding and reading them, and a tenth "
        "collects garbage meanwhile; data classes are written when they are first used.  In "
        "one process, of 25 imports, the fastest takes 37 ms; between processes the figure moves "
        "by half, as that of bare Trio does.",
    ),
    "idle": Case(
        "An idle connection to a server, with its heartbeat where it has one",
        Task("memory", connections=2000),
        ("memory",),
        # The loop below makes no difference.
        tuple(peer for peer in _HOLDING if peer not in ("aiohttp", "picows")),
        (_ours("≤", 6), Bar(("websockets",), "<", 1), Bar(("trio-websocket",), "<", 1)),
        took=2.6,
        headline="memory of an idle connection",
    ),
    "heartbeats": Case(
        "5,000 idle connections, each pinged once in 20 seconds",
        # The interval of all of these, so that each connection has its one ping.
        Task("heartbeats", connections=5000, seconds=20),
        ("share",),
        (OURS, "websockets", "aiohttp+uvloop"),
        (_ours("≤", 2),),
        took=26,
        rounds=1,
    ),
    "stalled": Case(
        "2,000 subscribers stalled at as many offsets beside 500 that read, 100,000 publications",
        Task("stalled", connections=500, stalled=2000, publications=100_000, burst=200, rate=50),
        ("stalled", "evicted", "p99 beside"),
        (OURS,),
        (_ours("≤", 66), _ours("≤", 0, "evicted"), _ours("≤", 1.2, "p99 beside")),
        took=45,
    ),
    "storm": Case(
        "1,000 peers come back at once, for 100 publications of 256 bytes each; 100 are live",
        Task("storm", connections=100, returning=1000, publications=100, size=256, seconds=1),
        ("caught up", "storm", "live p99"),
        tuple(STORM),
        (
            Bar(("websockets",), "≤", 0.5),
            Bar(tuple(peer for peer in STORM if peer != OURS), "≤", 1, "the best peer", "storm"),
            Bar(("websockets",), "≤", 0.5, figure="live p99"),
        ),
        took=3,
        headline="1,000 peers come back at once",
    ),
    **{f"members-{burst}": _members(burst) for burst in (1, 10, 100)},
    "herd": Case(
        "1,000 members come back at once and recover 100 publications of 128 bytes each",
        Task("herd", returning=1000, publications=100, size=128),
        _RETURNS,
        (OURS,),
        tuple(_ours("≤", 1.5, figure) for figure in _RETURNS),
        took=6,
        bound="What comes beside the opening of its connection is one more message to read, two "
        "commands to decide, the replies, and the kernel's copying of 16 KB: the cheaper the "
        "opening is, the more that is as a ratio. In one process, apart from the load, it takes "
        "110 µs of CPU in JSON and 140 in Protobuf.",
    ),
    "member-memory": Case(
        "A member with one subscription, beside a plain subscriber",
        Task("member-memory", connections=1000, size=128),
        _BEYOND,
        (OURS,),
        tuple(_ours("≤", 3, figure) for figure in _BEYOND),
        took=7,
    ),
    "broker": Case(
        "A broker on a Redis, beside a bare pipelined loop of hiredis on Trio; ratios",
        Task("broker", connections=10_000, publications=12_800, seconds=1),
        ("publish", "attach", "resync", "delivery", "node to node"),
        (OURS,),
        (
            _ours("≤", 1.5, "publish"),
            _ours("≤", 1.5, "attach"),
            _ours("≤", 1.5, "resync"),
            _ours("≤", 1.05, "delivery"),
            _ours("≤", 4, "node to node"),
        ),
        took=45,
        bound="A publication is checked, encoded, given a receipt and kept until there is an "
        "answer, in Python; the bare loop forgets it. Taken apart without a socket on one machine, "
        "to post it and to note the answer takes 2.8 µs, to write the command 1.7 where the bare "
        "loop packs for 2.5, to read the answer 0.7 where that takes 0.1, and kernel and Trio take "
        "1 to 2 of both. Attaching and resync, without the collector: to note and ask for a topic "
        "takes 5.2 and 3.7 µs where the bare loop packs for 3.2, to hear where it stands 3.9 and "
        "3.4 where that reads for 1.0, and kernel and Trio take 2 of both. What is left is Python "
        "that knows which topic is whose. While thousands are attached at once, the collector goes "
        "through all topics now and then, which is up to 5 µs of each. A delivery is the same "
        "with a broker and without; the publication takes some 340 µs more, as no cache holds "
        "anything of the way to the Redis and back after 500 writes, and its deliveries share "
        "that: in one process the ratio is 1.24 to 1.31 with 100 subscribers, 1.07 to 1.10 with "
        "500, and 1.02 to 1.03 with 2,000.",
    ),
    "hub-memory": Case(
        "A hub of 1,000 topics, filled three times over with publications of 64 bytes",
        Task("hub-memory", connections=1000, publications=400_000),
        ("hub-memory",),
        (OURS,),
        (_ours("≤", 1.5),),
        took=3,
    ),
    "tls": Case(
        "Fan-out to 500 subscribers over TLS, 64 bytes, one publication at a time",
        Task("publish", connections=500, tls=True),
        ("cpu",),
        tuple(peer for peer in _SINGLY if peer != "nginx nchan"),
        (Bar(("websockets",), "<", 1), Bar(("aiohttp+uvloop",), "<", 1)),
        took=1.3,
        headline=f"{_COST} over TLS, 500 subscribers",
    ),
    "deflate": Case(
        "Fan-out to 500 subscribers with permessage-deflate, 1 KiB of JSON, one at a time",
        Task("publish", connections=500, size=1024, deflate=True),
        ("cpu",),
        (
            *(OURS, FLOOR, "websockets", _WEBSOCKETS_TRIO),
            *("aiohttp", "aiohttp+uvloop", "Node ws"),
        ),
        (Bar(("websockets",), "≤", 0.1), Bar((FLOOR,), "≤", 1.05)),
        took=1.7,
        headline=f"{_COST}, compressed, 500 subscribers, 1 KiB of JSON",
        bound="A publication is compressed once for all who agreed to the same, with a compressor "
        "that is kept, where the floor makes one each time. Beside a bare loop over the same 500 "
        "sockets in one process it takes 1.21 to 1.24 of that, compression included on both "
        "sides, and without compression 1.20 to 1.22 in the same minutes: what is missing is what "
        "every fan-out to 500 has beside its writes.",
    ),
    "reconnect": Case(
        "A client connects again to a server that was killed and restarted, 20 times",
        Task("reconnect", connections=20),
        ("reconnect",),
        (OURS,),
        (_ours("≤", 50),),
        took=25,
        rounds=1,
    ),
    "idle-client": Case(
        "An idle client that would reconnect",
        Task("idle-client", connections=450),
        ("idle-client",),
        (OURS,),
        (_ours("≤", 14),),
        took=3,
        bound="Of the 14 KiB, 2 are the task that holds the client's block and 3 the connection "
        "with its socket, as open_connections has it. The client's own task takes 2.6, with the "
        "seven coroutines that stand in it; three cancel scopes of Trio's 2, the nursery of the "
        "block 0.6, deadlines that have passed, which Trio keeps for a while, 0.5, and the objects "
        "of the client the rest.",
    ),
}
