"""Servers that answer a ping where it stands: behind what they have handled of what came before.

Many do.  A client that has sent more than they get through within its timeout takes them for dead,
and sends all of it again; and of a message that such a server dies of, those before it in the same
burst are sent again, too.  Here the network is well: what is handled twice, is the client's doing.

The server is written in frames, because trioweb's own answers pings at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import trio

from trioweb import Topic
from trioweb.testing import NetworkStream, RawPeer

from .checks import Visit
from .scenario import PORT, RESTART_PAUSE

if TYPE_CHECKING:
    from .world import World

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


class OrderlyBackend:
    """The program of one such server, which knows no topic."""

    server = None
    hub = None

    def __init__(self, world: World, name: str) -> None:
        self.sick = False
        self._world = world
        self.topics: dict[str, Topic] = {}
        self._host = world.network.host(name)
        self._stop = trio.Event()

    async def run(self) -> None:
        """Run the program, and after each restart again."""
        while not self._world.over:
            self._stop = trio.Event()
            async with trio.open_nursery() as nursery:
                listeners = [self._host.listen(PORT)]
                nursery.start_soon(trio.serve_listeners, self._serve, listeners)
                await self._stop.wait()
                nursery.cancel_scope.cancel()
            await trio.sleep(RESTART_PAUSE)

    def stop(self) -> None:
        """End the program, in the middle of whatever it does."""
        self._stop.set()

    async def _serve(self, stream: NetworkStream) -> None:
        async with stream:
            try:
                peer = await RawPeer.accept(stream)
                target = urlsplit(peer.head.split()[1].decode())
                query = {name: values[0] for name, values in parse_qs(target.query).items()}
                if not self.sick:
                    await self._handle(peer, self._world.visit_by(query))
            except (EOFError, trio.BrokenResourceError):
                pass

    async def _handle(self, peer: RawPeer, visit: Visit) -> None:
        checks, nap = self._world.checks, self._world.scenario.nap
        while True:
            frame = await peer.receive_frame()
            if frame.opcode == _TEXT:
                text = frame.payload.decode()
                checks.received(visit, text)
                checks.handled(visit.life, text)
                await trio.sleep(nap)
                if text.endswith("poison"):
                    return  # each time, and what came behind it is left unread
            elif frame.opcode == _PING:
                await peer.send_frame(_PONG, frame.payload)
            elif frame.opcode == _CLOSE:
                await peer.send_frame(_CLOSE, frame.payload)
                return
