"""A TCP proxy between real streams whose middle is a network in memory: what breaks there, breaks.

Each connection that comes in is dialled anew from the host "client" of the network to its host
"server", and there to the target.  So every fault of the network, and every plan, acts on peers
that know nothing of it.

Rules kept here: what comes out of the network is handed on as it comes out: bytes, the end, or a
reset.  No connection outlives the program of a host that died, nor `serve`.

Knows nothing of command lines.  What kernels do by themselves stays theirs: they complete
handshakes and hold some bytes of each connection.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import trio

from ._ends import NetworkStream
from ._network import Network

CLIENT: Final = "client"
SERVER: Final = "server"
_PORT: Final = 80
# With these the server's kernel would answer with RST, so nobody may listen outside.
_REFUSING: Final = frozenset({"refuse", "crash"})
# l_onoff, l_linger: close sends RST, and forgets what was not sent.
_RESET_AT_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

Listen: TypeAlias = Callable[[], Awaitable[Sequence[trio.abc.Listener[Any]]]]
Dial: TypeAlias = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


class Proxy:
    """Carries connections from *listen* to *dial* through a network.

    Args:
        network: has the hosts "client" and "server" from now on; its faults are the proxy's.
        listen: opens the listeners that clients reach.  It is called again after each time in
            which connections were refused.
        dial: connects with the target.
        describe: the name of a stream's peer, for the network's trace.
    """

    def __init__(
        self, network: Network, listen: Listen, dial: Dial, describe: Callable[[Any], str] = repr
    ) -> None:
        self._network = network
        self._client = network.host(CLIENT)
        self._server = network.host(SERVER)
        self._listen = listen
        self._dial = dial
        self._describe = describe

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carry connections until cancelled.

        Args:
            listeners: what *listen* gave the first time; they are closed at the end.

        Raises:
            OSError: *listen* could not open listeners again.
            RuleFailed: a function that the network asks failed.

        Cancellation: all connections are reset.  Checkpoint: always.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.run, self._hand_on)
            nursery.start_soon(self._client.run, self._take_in, [listeners])
            task_status.started()

    async def _take_in(self, opened: list[Sequence[trio.abc.Listener[Any]]]) -> None:
        """The client's program: take connections from outside, whenever the server would."""
        async with trio.open_nursery() as connections:
            while True:
                listeners = opened.pop() if opened else await self._listen()
                async with trio.open_nursery() as nursery:
                    # It closes the listeners, and leaves the connections.
                    nursery.start_soon(_serve, self._dial_in, listeners, connections)
                    while self._refuses_until() <= trio.current_time():
                        await self._network.wait_change(math.inf)
                    nursery.cancel_scope.cancel()
                while (until := self._refuses_until()) > trio.current_time():
                    await self._network.wait_change(until)

    async def _hand_on(self) -> None:
        """The server's program: hand on what has come through the network."""
        # NOTE: without a checkpoint before it, so that it listens before anybody has come.
        listener = self._server.listen(_PORT)
        async with trio.open_nursery() as connections:
            await _serve(self._dial_out, [listener], connections)

    def _refuses_until(self) -> float:
        """Until when nobody may listen outside; a time that has passed if somebody may."""
        now = trio.current_time()
        faults = [fault for fault in self._server.faults if fault.fault.kind in _REFUSING]
        return max((fault.end for fault in faults if fault.acts(now)), default=now)

    async def _dial_in(self, outside: trio.abc.HalfCloseableStream) -> None:
        try:
            inside = await self._client.dial(SERVER, _PORT)
            ours, _, _ = inside.name.partition(" > ")
            self._network.trace.note(ours, "", f"stands for {self._describe(outside)}")
            await _join(inside, outside)
        except OSError:
            pass  # refused, as the trace says
        finally:
            _reset(outside)

    async def _dial_out(self, inside: NetworkStream) -> None:
        try:
            outside = await self._dial()
        except OSError as exc:
            self._network.trace.note(SERVER, "", f"cannot reach the target: {_reason(exc)}")
        else:
            try:
                await _join(inside, outside)
            finally:
                _reset(outside)
        finally:
            _reset(inside)


async def _serve(
    handler: Callable[[Any], Awaitable[object]],
    listeners: Sequence[trio.abc.Listener[Any]],
    nursery: trio.Nursery,
) -> None:
    await trio.serve_listeners(handler, list(listeners), handler_nursery=nursery)


async def _join(inside: NetworkStream, outside: trio.abc.HalfCloseableStream) -> None:
    """Carry bytes both ways until both ends have sent theirs, or one of them is reset."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, inside, outside)
            nursery.start_soon(_carry, outside, inside)
        inside.close()
        await outside.aclose()
    except* trio.BrokenResourceError:
        pass
    finally:
        _reset(inside)


async def _carry(source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
    while data := await source.receive_some():
        await sink.send_all(data)
    await sink.send_eof()


def _reset(stream: trio.abc.HalfCloseableStream) -> None:
    """Let the peer of *stream* read a reset, unless the stream is closed already."""
    if isinstance(stream, NetworkStream):
        if not stream.gone:
            stream.die(silently=False)
    else:
        assert isinstance(stream, trio.SocketStream)
        with suppress(OSError):  # closed
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        stream.socket.close()


def _reason(error: OSError) -> str:
    """What has happened, without the address, which the user knows."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause.strerror if isinstance(cause, OSError) else error.strerror
    return reason or str(error)
