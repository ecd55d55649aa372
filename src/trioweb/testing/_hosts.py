"""Hosts of a simulated network: they listen, dial, run programs, stand still and die.

Rules kept here: a host that stands still or is dead does nothing, its tasks wait; what is left
of a dead program can never use a connection again, and reaches nobody.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVarTuple, final

import trio

from .._arguments import check_kind, wrong
from ._ends import Addresses, NetworkStream
from ._faults import ActiveFault, Fault, FaultKind
from ._sockets import installed

if TYPE_CHECKING:
    from ._network import Network

Args = TypeVarTuple("Args")

# The range that IANA leaves to clients.
_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535

# As many connections wait to be accepted as Linux allows.
_MAX_BACKLOG: Final = 4096


@final
class NetworkListener(trio.abc.Listener[NetworkStream]):
    """A port of a host that accepts connections; `Host.listen` makes them."""

    def __init__(self, host: Host, port: int, backlog: int) -> None:
        self.host = host
        self.port = port
        self._backlog = backlog
        self.socket = Addresses((host.address, port))
        self._waiting: deque[NetworkStream] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = False
        self._dead = False

    async def accept(self) -> NetworkStream:
        """Wait for a connection.

        Raises:
            trio.ClosedResourceError: this listener is closed.

        Cancellation: nothing is lost.  Checkpoint: always.
        Concurrency: several tasks may accept.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            until = math.inf if self._dead else self.host.stands_until("accept")
            if self._waiting and until <= trio.current_time():
                stream = self._waiting.popleft()
                stream._note("accept")
                self.host.network.changed.unpark_all()  # somebody may wait for room
                return stream
            with trio.move_on_at(until if self._waiting else math.inf):
                await self._changed.park()
        raise trio.ClosedResourceError("this listener was already closed")

    async def aclose(self) -> None:
        """Close it, and reset the connections that nobody has accepted.  Checkpoint: always."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._closed = True
        self.host.unlisten(self.port, self)
        for stream in self._waiting:
            stream.abort()
            stream.close()
        self._waiting.clear()
        self._changed.unpark_all()

    def die(self) -> None:
        self._dead = True
        self._waiting.clear()  # the streams die by themselves
        self.host.unlisten(self.port, self)

    def offer(self, stream: NetworkStream) -> None:
        self._waiting.append(stream)
        self._changed.unpark_all()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._backlog

    def wake(self) -> None:
        self._changed.unpark_all()


@final
class Host:
    """A machine on the network; `Network.host` makes them."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.faults: list[ActiveFault] = []
        self._listeners: dict[int, NetworkListener] = {}
        self._programs: dict[trio.CancelScope, None] = {}
        self._next_port = _FIRST_PORT

    def __repr__(self) -> str:
        return f"<host {self.name} {self.address}>"

    def listen(self, port: int = 0, *, backlog: int = _MAX_BACKLOG) -> NetworkListener:
        """Listen on *port*, or on a free one for 0, and return the listener.

        So many connections as *backlog* says can wait to be accepted; those beyond wait for an
        answer.

        Raises:
            OSError: the port is in use, or the host is down.
        """
        if type(port) is not int or not 0 <= port <= 65535:
            raise ValueError(f"port must be a whole number from 0 to 65535, not {port!r}")
        if self.stands_until("run") == math.inf:
            raise OSError(errno.ENETDOWN, f"{self.name} is down")
        port = port or self._take_port()
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{self.name}:{port} is in use")
        listener = self._listeners[port] = NetworkListener(self, port, min(backlog, _MAX_BACKLOG))
        return listener

    async def dial(self, host: str, port: int) -> NetworkStream:
        """Connect to *port* of *host*, a name or an address; fits `open_client(dial=…)`.

        Raises:
            OSError: refused, reset, or no such host.

        A peer that does not answer is waited for: deadlines are the caller's, as in Trio.
        Cancellation: nothing is left of the attempt.  Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_runnable("dial")
        network, peer = self.network, self.network.find(host, self)
        there, back = network.line(self.name, peer.name), network.line(peer.name, self.name)
        local_port = self._take_port()
        names = f"{self.name}:{local_port}", f"{peer.name}:{port}"
        network.trace.note(*names, "dial")
        await network.cross(there)
        answer = await peer._answer(port)
        await network.cross(back)
        await self._wait_runnable("dial")
        if answer == "refuse" or answer not in ("hang_up", peer._listeners.get(port)):
            network.trace.note(*names, "refused")
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"{os.strerror(errno.ECONNREFUSED)}: {host}:{port}"
            )
        ours = NetworkStream(self, local_port, peer, port, network.max_bytes)
        theirs = NetworkStream(peer, port, self, local_port, network.max_bytes)
        ours.connect(theirs, there, back, born=trio.current_time())
        network.add(ours, theirs)
        if answer == "hang_up":
            theirs.close()
        else:
            answer.offer(theirs)
        return ours

    async def run(self, program: Callable[[*Args], Awaitable[object]], *args: *Args) -> None:
        """Run *program* as this host's own: a crash cancels it, a restart starts it anew.

        Returns when the program does, and raises what it raises.

        Cancellation: cancels the program, which is not started anew.
        """
        while True:
            await self._wait_runnable("run")
            with trio.CancelScope() as life:
                self._programs[life] = None
                try:
                    await program(*args)
                finally:
                    del self._programs[life]
            if not life.cancel_called:
                return

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let Trio's own sockets and names, in this block and tasks begun in it, be this host's.

        So programs that open TCP by themselves (`trio.open_tcp_stream`, `trio.serve_tcp`, and
        libraries that use them) run on the network.  What is not TCP over IPv4 is refused.
        `SocketStream.wait_send_all_might_not_block` does not work there: no descriptor.
        """
        with installed(self):
            yield

    def crash(self, *, duration: float = math.inf, silently: bool = False) -> ActiveFault:
        """Let everything on this host die, until `restart` or for *duration* seconds.

        Its listeners and streams are gone.  Peers read a reset, unless *silently*, as in a power
        cut: then they hear nothing, and a reset only if they send when the host is back.  What
        still runs in the test as this host's program waits for ever at its next use of the
        network: `run` cancels it, otherwise the test does.
        """
        kind: FaultKind = "power_cut" if silently else "crash"
        return self.network.apply(Fault(kind, (self.name,), duration=duration))

    def restart(self) -> None:
        """Bring a crashed host back: without listeners, until a program listens again."""
        for fault in self.faults:
            if fault.fault.kind in ("crash", "power_cut"):
                fault.heal()

    def stands_until(self, doing: str) -> float:
        """Until when this host's programs cannot do it."""
        at = self.network.now()
        while (later := max((f.stands_until(at, doing) for f in self.faults), default=at)) > at:
            at = later
        return at

    @property
    def listeners(self) -> list[NetworkListener]:
        return list(self._listeners.values())

    def unlisten(self, port: int, listener: NetworkListener) -> None:
        if self._listeners.get(port) is listener:
            del self._listeners[port]

    def die(self) -> None:
        for listener in self.listeners:
            listener.die()
        for life in self._programs:
            life.cancel()

    def wake(self) -> None:
        for listener in self.listeners:
            listener.wake()

    def _take_port(self) -> int:
        while True:
            port = self._next_port
            self._next_port = _FIRST_PORT if port == _LAST_PORT else port + 1
            if port not in self._listeners:
                return port

    async def _wait_runnable(self, doing: str) -> None:
        while (until := self.stands_until(doing)) > trio.current_time():
            await self.network.wait_change(until)

    async def _answer(self, port: int) -> NetworkListener | Literal["refuse", "hang_up"]:
        """Wait until this host answers who wants to connect, and say how."""
        while True:
            now = trio.current_time()
            acting = {fault.fault.kind: fault for fault in self.faults if fault.acts(now)}
            listener = self._listeners.get(port)
            if "ignore" in acting:
                await self.network.wait_change(acting["ignore"].end)
            elif "hang_up" in acting:
                return "hang_up"
            elif "refuse" in acting or listener is None:
                return "refuse"
            elif listener.full:
                await self.network.wait_change(math.inf)
            else:
                return listener


# One host or several, by name or as `Network.host` returned them.
Who: TypeAlias = str | Host | Iterable[str | Host]


def names_of(kind: str, who: Who) -> tuple[str, ...]:
    """The names of the hosts that *who* is, for a fault of this *kind*."""
    if isinstance(who, (str, Host)):
        who = (who,)
    if not isinstance(who, Iterable):
        raise wrong(kind, "hosts", "a host, its name, or several of them", who)
    found = tuple(who)
    for each in found:
        check_kind(kind, "each of hosts", each, str, Host)
    return tuple(each.name if isinstance(each, Host) else each for each in found)
