"""`trioweb chaos`: the network of `trioweb.testing` as a proxy between real programs."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import trio

from .._chance import random_bytes
from .._error_groups import single_cause
from .._protocol._http import format_address
from .._server._listening import open_listeners
from ..testing import Chunk, Conditions, Cut, Delay, Drop, Fault, Network, Plan, RuleFailed
from ..testing._proxy import CLIENT, SERVER, Proxy
from ..testing._rules import Verdict
from ..testing._trace import TraceEvent
from ._chaos_options import SPANS
from ._terminal import Notices, UsageError

# What a plan's file finds there without importing it: what the `repr` of a plan needs, and rules.
_NAMES: Final = {each.__name__: each for each in (Chunk, Conditions, Cut, Delay, Drop, Fault, Plan)}
# Each chunk has them; they are told only when asked for.
_CHATTER: Final = frozenset({"accept", "send", "receive", "eof"})
_LOST: Final = ("refused", "reset", "drop", "cut", "cannot")
# So many events may wait to be written; whoever does not read them holds up no connection.
_MAX_EVENTS: Final = 10_000
_LAST_WORDS_SECONDS: Final = 1


class _Meter:
    """A rule: each direction of a connection passes so many bytes, and then meets its end."""

    def __init__(self, verdict: type[Drop] | type[Cut], limit: int) -> None:
        self._verdict = verdict
        self._limit = limit
        self._passed: dict[str, int] = {}

    def __call__(self, chunk: Chunk) -> Verdict:
        passed = self._passed.get(chunk.connection, 0)
        self._passed[chunk.connection] = passed + len(chunk.data)
        left = self._limit - passed
        return None if len(chunk.data) <= left else self._verdict(max(left, 0))

    def begin(self, a: str, b: str) -> None:
        """A new connection has these ends, which an old one may have had."""
        self._passed.pop(f"{a} > {b}", None)
        self._passed.pop(f"{b} > {a}", None)


async def chaos(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    seed = options.seed
    if seed is None:
        seed = int.from_bytes(random_bytes(4))
    network = Network(
        seed,
        latency=options.latency,
        jitter=options.jitter,
        bandwidth=options.bandwidth,
        segment=options.segment,
    )
    meters = [
        _Meter(verdict, limit)
        for verdict, limit in ((Drop, options.drop_after), (Cut, options.cut_after))
        if limit is not None
    ]
    plan = Plan((*_faults(options), *(await _read_plan(options.plan)).faults))
    host, port = options.listen
    listeners = await _listen(host, port)
    port = listeners[0].socket.getsockname()[1]
    proxy = Proxy(
        network,
        partial(open_listeners, port, [host]),
        partial(trio.open_tcp_stream, *options.target),
        _peer,
    )
    for meter in meters:
        network.intercept(meter, CLIENT, SERVER)
    try:
        return await _run(network, proxy, listeners, plan, meters, verbose=options.verbose)
    except BaseException as exc:
        cause = single_cause(exc)
        if isinstance(cause, RuleFailed):
            await Notices().tell("failed", f"--plan: {cause}", "red")
        elif isinstance(cause, OSError):  # listening again, or standard error
            await Notices().tell("failed", str(cause), "red")
        else:
            raise
        return 1


async def _run(
    network: Network,
    proxy: Proxy,
    listeners: Sequence[trio.SocketListener],
    plan: Plan,
    meters: Sequence[_Meter],
    *,
    verbose: bool,
) -> int:
    notices = Notices()
    told, telling = trio.open_memory_channel[TraceEvent](_MAX_EVENTS)
    connections = untold = 0

    def note(event: TraceEvent) -> None:
        nonlocal connections, untold
        if event.event == "dial":
            connections += 1
            for meter in meters:
                meter.begin(event.source, event.target)
        if verbose or event.event not in _CHATTER:
            try:
                told.send_nowait(event)
            except trio.WouldBlock:
                untold += 1

    network.trace.on_event = note
    async with trio.open_nursery() as teller:
        with told, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                for fault in plan.faults:
                    if not fault.at:  # before anybody can connect
                        network.apply(fault)
                later = Plan(tuple(fault for fault in plan.faults if fault.at))
                nursery.start_soon(network.run, later)
                await nursery.start(proxy.serve, listeners)
                # Alone on standard output, for scripts.
                print(format_address(listeners[0].socket.getsockname()[:2]), flush=True)
                await notices.tell("seed", str(network.seed), "green")
                teller.start_soon(_tell, telling, notices)
                await signals.__anext__()
                # What its own end does to connections is no news.
                network.trace.on_event = None
                nursery.cancel_scope.cancel()
        # Whoever does not read what is told at the end does not hold it up.
        teller.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_SECONDS
    missing = f", {untold} of them not shown" if untold else ""
    await notices.tell(
        "ended",
        f"{connections} connections, {network.trace.count} events{missing}; "
        f"the same again: --seed {network.seed}",
        "green",
    )
    return 0


async def _tell(events: trio.MemoryReceiveChannel[TraceEvent], notices: Notices) -> None:
    async for event in events:
        mark, size = event.event, f" {event.size} bytes" if event.size else ""
        where = f"{event.source} > {event.target}" if event.target else event.source
        if mark == "dial" or mark.startswith("stands for"):
            colour = "green"
        elif mark.startswith(_LOST) or ":" not in where:  # faults name hosts alone
            colour = "red"
        else:
            colour = "yellow"
        await notices.tell(mark, f"{where}{size}, at {event.time:.3f} s", colour)


def _peer(stream: Any) -> str:
    try:
        return format_address(stream.socket.getpeername()[:2])
    except OSError:
        return "a peer that has gone"


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await open_listeners(port, [host])
    except OSError as exc:
        raise UsageError(f"{exc.strerror}; choose another LISTEN") from exc
    except UnicodeError as exc:  # a name that no host can have
        raise UsageError(f"cannot listen on {host}: {exc}; choose another LISTEN") from exc


def _faults(options: argparse.Namespace) -> list[Fault]:
    """What the options say goes wrong, all of it on the server's side."""
    return [
        Fault(kind, (SERVER,), at=at, duration=span.otherwise if duration is None else duration)
        for kind, span in SPANS.items()
        for at, duration in getattr(options, kind)
    ]


async def _read_plan(path: str | None) -> Plan:
    """The plan that the program in a file makes.

    Raises:
        UsageError: there is none, or it names hosts that do not exist here.
    """
    if path is None:
        return Plan()
    try:
        source = await trio.Path(path).read_bytes()
    except OSError as exc:
        raise UsageError(f"--plan {path}: cannot be read: {exc.strerror}") from exc
    return plan_of(source, path)


def plan_of(source: str | bytes, path: str) -> Plan:
    """The plan that a program makes; otherwise a UsageError that names *path*."""
    names: dict[str, Any] = {**_NAMES, "__name__": "plan", "__file__": path}
    try:
        exec(compile(source, path, "exec"), names)
    except Exception as exc:
        raise UsageError(f"--plan {path}: {_line(exc, path)}{exc!r}") from exc
    plan = names.get("plan")
    if not isinstance(plan, Plan):
        raise UsageError(
            f"--plan {path}: must set plan to a Plan, such as "
            "plan = Plan((Fault('partition', ('server',), at=10, duration=5),))"
        )
    hosts = {name for fault in plan.faults for name in (*fault.hosts, *(fault.others or ()))}
    if unknown := sorted(hosts - {CLIENT, SERVER}):
        raise UsageError(
            f"--plan {path}: there is no host {unknown[0]!r} here; the hosts are client and server"
        )
    return plan


def _line(error: Exception, path: str) -> str:
    """Where in the file it was."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    frame = error.__traceback__
    number = 0
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == path:
            number = frame.tb_lineno
        frame = frame.tb_next
    return f"line {number}: "
