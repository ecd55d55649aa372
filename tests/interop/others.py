"""Other people's servers, each its own process, which a test can kill, stop and start again.

What they do is written in `servers/common.py`.  Knows nothing of the client.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest
import trio

from tests.interop.peer import PATIENCE
from tests.processes import ROOT, Program, python, running

_SERVERS: Final = "tests.interop.servers"
_WS: Final = ("node", str(ROOT / "tests/interop/servers/ws_server.js"))

COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "ws": (*_WS, "alone"),
    "ws on Express": (*_WS, "express"),
    "websockets": python("-m", f"{_SERVERS}.websockets_server"),
    "websockets on Trio": python("-m", f"{_SERVERS}.websockets_trio_server"),
    "aiohttp": python("-m", f"{_SERVERS}.aiohttp_server"),
    "picows": python("-m", f"{_SERVERS}.picows_server"),
    "trio-websocket": python("-m", f"{_SERVERS}.trio_websocket_server"),
    "trioweb": python("-m", f"{_SERVERS}.trioweb_server"),
    "naughty": python("-m", f"{_SERVERS}.naughty_server"),
}

# The well-behaved ones, which all do the same, for `parametrize`.
EXPRESS: Final = pytest.param("ws on Express", marks=pytest.mark.node)
FRAGMENTING: Final = [
    pytest.param("ws", marks=pytest.mark.node),
    "websockets",
    "websockets on Trio",
    "picows",
]
SERVERS: Final = [*FRAGMENTING, EXPRESS, "aiohttp", "trio-websocket"]


class OtherServer:
    """A server that stays at its port.  `serving_other` makes one.

    Attributes:
        program: the process that is running, or was the last.
    """

    program: Program

    def __init__(self, name: str, stack: AsyncExitStack) -> None:
        self._command = COMMANDS[name]
        self._stack = stack
        self._port = 0

    def url(self, path: str = "/", scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self._port}{path}"

    async def start(self, *arguments: str) -> None:
        """Start it; *arguments* follow the port."""
        command = [*self._command, str(self._port), *arguments]
        self.program = await self._stack.enter_async_context(running(command))
        try:
            self._port = int(await self.program.output.next())
        except EOFError:
            raise AssertionError(await self.program.errors.rest()) from None

    async def kill(self) -> None:
        """End it as a crash or a power cut would; it must not have ended by itself before."""
        self.program.process.kill()
        code, _, errors = await self.program.ended()
        print(errors, end="")  # for whoever looks why a test failed
        assert code == -signal.SIGKILL


@asynccontextmanager
async def serving_other(name: str, *arguments: str) -> AsyncGenerator[OtherServer]:
    """Run one of COMMANDS for the length of the block, which may not take for ever."""
    with trio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            server = OtherServer(name, stack)
            await server.start(*arguments)
            yield server
            if server.program.process.returncode is None:
                await server.kill()
