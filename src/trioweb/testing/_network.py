"""A network in memory, in the caller's tasks and on Trio's clock, that breaks on command.

Rules kept here: the network owns no tasks, so nothing happens unless somebody looks; whatever
changes what lines and hosts do first settles what has arrived until then, and then wakes
everybody who waits, to look again.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import Any, Final

import trio

from .._arguments import check_kind
from ._ends import NetworkStream
from ._faults import ActiveFault, Conditions, Fault, FaultKind, Plan
from ._flight import Flight
from ._hosts import Host, Who, names_of
from ._lines import Line
from ._rules import Rule
from ._streams import check_max_bytes
from ._trace import Trace

_UNCHANGED: Final = Conditions()


@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    """What is open: streams and listeners of living programs."""

    streams: int
    listeners: int


class Network:
    """Hosts, and lines between each two of them, that exist only in memory.

    Args:
        seed: an integer that everything random follows from.
        latency, jitter, bandwidth, segment: what every line is like, see `Conditions`;
            otherwise nothing takes time.  `shape` changes it for some of them.
        max_bytes: how many bytes may be between sender and receiver in each direction of a
            connection before the sender has to wait.  The default is a small kernel's.

    Each method for a fault takes hosts by name, one or several, and other hosts as the other
    side (everybody else where they are left out), acts on connections that exist and on those
    to come, and ends by `heal()` of what it returns, at the end of a `with` block, or after
    *duration* seconds.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        latency: float | None = None,
        jitter: float | None = None,
        bandwidth: float | None = None,
        segment: int | None = None,
        max_bytes: int = 65536,
    ) -> None:
        if type(seed) is not int:
            raise TypeError(f"seed must be a whole number, not {seed!r}")
        check_max_bytes(max_bytes)
        self.seed = seed
        self.max_bytes = max_bytes
        self.trace = Trace()
        # Woken with everybody else by every change, and when a listener has room again.
        self.changed = trio.lowlevel.ParkingLot()
        self._conditions = Conditions(
            latency=latency, jitter=jitter, bandwidth=bandwidth, segment=segment
        )
        self._hosts: dict[str, Host] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self._faults: list[ActiveFault] = []
        self._streams: dict[NetworkStream, None] = {}
        self._handshakes: dict[Flight[None], None] = {}

    def host(self, name: str) -> Host:
        """Return the host of this *name*, a new one at first use.

        Raises:
            TypeError, ValueError: *name* cannot be one.
        """
        check_kind("Network.host", "name", name, str)
        if not name:
            raise ValueError("a host's name must not be empty")
        if name not in self._hosts:
            number = len(self._hosts) + 1
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            self._hosts[name] = Host(self, name, address)
        return self._hosts[name]

    def find(self, name: str, asking: Host) -> Host:
        """The host that *asking* means by a name or an address.

        Raises:
            socket.gaierror: there is none.
        """
        if name in ("localhost", "127.0.0.1", "::1"):
            return asking
        for host in self._hosts.values():
            if name in (host.name, host.address):
                return host
        raise socket.gaierror(socket.EAI_NONAME, f"no such host on this network: {name!r}")

    async def connect(self, a: str, b: str) -> tuple[NetworkStream, NetworkStream]:
        """Connect host *a* to host *b* and return both ends, that of *a* first.

        Raises, Cancellation, Checkpoint: as `Host.dial`.
        """
        async with self.host(b).listen() as listener:
            ours = await self.host(a).dial(b, listener.port)
            return ours, await listener.accept()

    def statistics(self) -> NetworkStatistics:
        """How many streams and listeners are open."""
        return NetworkStatistics(
            streams=sum(not stream.gone for stream in self._streams),
            listeners=sum(len(host.listeners) for host in self._hosts.values()),
        )

    def open_names(self) -> list[str]:
        """The same, by name."""
        streams = [f"stream {stream.name}" for stream in self._streams if not stream.gone]
        hosts = self._hosts.values()
        return streams + [f"listener {h.name}:{each.port}" for h in hosts for each in h.listeners]

    def partition(
        self, a: Who, b: Who | None = None, *, one_way: bool = False, duration: float = math.inf
    ) -> ActiveFault:
        """Let nothing pass between *a* and *b*, or with *one_way* nothing from *a* to *b*.

        Afterwards everything arrives that was sent meanwhile: TCP sends it again.
        """
        return self._fault("partition", a, b, one_way=one_way, duration=duration)

    def half_open(
        self, a: Who, b: Who | None = None, *, one_way: bool = False, duration: float = math.inf
    ) -> ActiveFault:
        """Let connections fall silent for ever, with neither FIN nor RST: as a NAT forgets them.

        Connections can be made meanwhile, and are as silent; only those made later work.
        """
        return self._fault("half_open", a, b, one_way=one_way, duration=duration)

    def reset(self, a: Who, b: Who | None = None, *, duration: float = 0) -> ActiveFault:
        """Reset all connections between *a* and *b*, and those made within *duration* seconds."""
        return self._fault("reset", a, b, duration=duration)

    def shape(
        self,
        a: Who,
        b: Who | None = None,
        *,
        latency: float | None = None,
        jitter: float | None = None,
        bandwidth: float | None = None,
        segment: int | None = None,
        one_way: bool = False,
        duration: float = math.inf,
    ) -> ActiveFault:
        """Change what the lines between *a* and *b* are like; see `Conditions`."""
        conditions = Conditions(
            latency=latency, jitter=jitter, bandwidth=bandwidth, segment=segment
        )
        return self._fault("shape", a, b, one_way=one_way, duration=duration, conditions=conditions)

    def trickle(
        self, a: Who, b: Who | None = None, *, bandwidth: float = 10, duration: float = math.inf
    ) -> ActiveFault:
        """Let no more than some bytes a second pass, one at a time."""
        return self.shape(a, b, bandwidth=bandwidth, segment=1, duration=duration)

    def stall(self, hosts: Who, *, duration: float = math.inf) -> ActiveFault:
        """Let programs on *hosts* read nothing, so that their peers cannot write for long."""
        return self._fault("stall", hosts, duration=duration)

    def freeze(self, hosts: Who, *, duration: float = math.inf) -> ActiveFault:
        """Let *hosts* stand still and be silent, as a laptop that sleeps."""
        return self._fault("freeze", hosts, duration=duration)

    def refuse(self, hosts: Who, *, duration: float = math.inf) -> ActiveFault:
        """Let *hosts* refuse connections."""
        return self._fault("refuse", hosts, duration=duration)

    def ignore(self, hosts: Who, *, duration: float = math.inf) -> ActiveFault:
        """Let *hosts* not answer those who want to connect."""
        return self._fault("ignore", hosts, duration=duration)

    def hang_up(self, hosts: Who, *, duration: float = math.inf) -> ActiveFault:
        """Let *hosts* accept connections and close them at once."""
        return self._fault("hang_up", hosts, duration=duration)

    def intercept(
        self,
        rule: Rule,
        a: Who,
        b: Who | None = None,
        *,
        one_way: bool = False,
        duration: float = math.inf,
    ) -> ActiveFault:
        """Ask *rule* what becomes of each chunk of bytes that is sent between *a* and *b*.

        Where several rules act, the first one that does not let a chunk pass decides.

        Args:
            rule: a function of a `Chunk` that returns `Delay(seconds)`, `Drop()`, `Cut(after)`, or
                None to let it pass.  It is called when the chunk is sent, and must not await.
                An error in it, an `assert` for instance, ends the test with `RuleFailed`.
        """
        return self._fault("intercept", a, b, one_way=one_way, duration=duration, rule=rule)

    def apply(self, fault: Fault) -> ActiveFault:
        """Let *fault* begin now, whatever its `at`; the methods for faults come here."""
        check_kind("Network.apply", "fault", fault, Fault)
        for name in (*fault.hosts, *(fault.others or ())):
            if name not in self._hosts:
                known = f"but {', '.join(self._hosts)}" if self._hosts else "which has none yet"
                raise ValueError(
                    f"{fault.kind}: no host {name!r} on this network, {known}; "
                    f"network.host({name!r}) makes it"
                )
        now = self.now()
        if now == -math.inf and fault.duration != math.inf:
            raise RuntimeError(f"{fault}: a fault for a time must begin inside a Trio run")
        self._settle(now)
        self._forget_faults(now)
        active = ActiveFault(fault, now, self._heal)
        self._faults.append(active)
        for line in self._lines.values():
            if fault.covers(line.source, line.target):
                line.faults.append(active)
        for name in fault.hosts:
            self._hosts[name].faults.append(active)
        self._note(active, str(fault))
        self._strike(fault)
        self._wake()
        return active

    async def run(self, plan: Plan) -> None:
        """Let the faults of *plan* happen at their times, and return when the last has ended.

        Cancellation: those that act are healed.
        """
        check_kind("Network.run", "plan", plan, Plan)
        begun = trio.current_time()
        active: list[ActiveFault] = []
        try:
            for fault in sorted(plan.faults, key=lambda fault: fault.at):
                await trio.sleep_until(begun + fault.at)
                active.append(self.apply(fault))
            await trio.sleep_until(max((fault.end for fault in active), default=begun))
        finally:
            for each in active:
                each.heal()

    # For hosts and streams

    def now(self) -> float:
        """Trio's time, or the beginning of all time while a network is being set up."""
        return trio.current_time() if trio.lowlevel.in_trio_run() else -math.inf

    def line(self, source: str, target: str) -> Line:
        """The line from one host to another, a new one at first use."""
        if (source, target) not in self._lines:
            line = Line(source, target, self._conditions, self.seed)
            line.faults += [f for f in self._faults if f.fault.covers(source, target)]
            self._lines[source, target] = line
        return self._lines[source, target]

    async def cross(self, line: Line) -> None:
        """Wait until a packet that belongs to no connection yet has crossed *line*."""
        lot = trio.lowlevel.ParkingLot()
        flight: Flight[None] = Flight(line, None, lot.unpark_all)
        flight.send(line.now(), None)
        self._handshakes[flight] = None
        try:
            while not list(flight.land(line.now())):
                with trio.move_on_at(flight.next()):
                    await lot.park()
        finally:
            del self._handshakes[flight]

    async def wait_change(self, until: float) -> None:
        """Wait until something changes, but no longer than *until*."""
        with trio.move_on_at(until):
            await self.changed.park()

    def add(self, *ends: NetworkStream) -> None:
        """Know of a connection that was just made."""
        self._streams.update(dict.fromkeys(ends))
        end = ends[0]
        if any(f.fault.kind == "reset" and f.acts(end.line.now()) for f in end.line.faults):
            end.abort()

    def forget(self, end: NetworkStream) -> None:
        """Know no more of a connection whose ends are both gone."""
        if end.gone and end.peer.gone:
            for stream in (end, end.peer):
                self._streams.pop(stream, None)

    def _fault(
        self,
        kind: FaultKind,
        hosts: Who,
        others: Who | None = None,
        *,
        one_way: bool = False,
        duration: float,
        conditions: Conditions = _UNCHANGED,
        rule: Rule | None = None,
    ) -> ActiveFault:
        return self.apply(
            Fault(
                kind,
                names_of(kind, hosts),
                None if others is None else names_of(kind, others),
                one_way=one_way,
                duration=duration,
                conditions=conditions,
                rule=rule,
            )
        )

    def _heal(self, active: ActiveFault) -> None:
        now = self.now()
        if now < active.end:
            active.end = now
            self._note(active, f"heal {active.fault.kind}")
            self._wake()

    def _strike(self, fault: Fault) -> None:
        """Do what a fault does once, when it begins."""
        streams = list(self._streams)
        if fault.kind == "reset":
            for stream in streams:
                if fault.covers(stream.line.source, stream.line.target) and not stream.was_reset:
                    stream.abort()
        elif fault.kind in ("crash", "power_cut"):
            for stream in streams:
                if stream.host.name in fault.hosts and not stream.gone:
                    stream.die(silently=fault.kind == "power_cut")
            for name in fault.hosts:
                self._hosts[name].die()

    def _forget_faults(self, now: float) -> None:
        """Forget those that have ended, and before everything that is under way was sent."""
        since = dict.fromkeys(self._lines.values(), now)
        eldest = dict.fromkeys(self._lines.values(), math.inf)
        flights: list[Flight[Any]] = [*self._handshakes]
        for stream in self._streams:
            flights += stream.flights
        for flight in flights:
            line = flight.path
            assert isinstance(line, Line)
            since[line] = min(since[line], flight.since)
            if flight.born is not None:
                eldest[line] = min(eldest[line], flight.born)
        for line in since:
            line.forget_faults(since[line], eldest[line])
        # Of these, one can only act from now on.
        self._faults = [fault for fault in self._faults if now < fault.end]
        for host in self._hosts.values():
            host.faults = [fault for fault in host.faults if now < fault.end]

    def _settle(self, now: float) -> None:
        for stream in self._streams:
            stream.settle(now)

    def _wake(self) -> None:
        for stream in self._streams:
            stream.wake()
        for flight in self._handshakes:
            flight.on_change()
        for host in self._hosts.values():
            host.wake()
        self.changed.unpark_all()

    def _note(self, active: ActiveFault, event: str) -> None:
        fault = active.fault
        others = "everybody" if fault.others is None else " ".join(fault.others)
        self.trace.note(" ".join(fault.hosts), "" if fault.is_of_hosts else others, event)
