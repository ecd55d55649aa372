"""Other people's clients in Python, and the table of all of them.

They block or run under asyncio, so a test runs them in a thread, with `Peer.run`; all but one,
which runs under Trio.  Knows nothing of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import aiohttp
import pytest
import trio
import websocket
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_asyncio
from websockets.trio.client import ClientConnection as TrioClientConnection
from websockets.trio.client import connect as connect_trio

from tests.interop.javascript import open_chromium, open_node, open_ws
from tests.interop.peer import PATIENCE, Client, Message, Target
from tests.interop.picows_client import open_picows


class _Websockets:
    def __init__(self, connection: ClientConnection | TrioClientConnection) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        return self._connection.subprotocol

    @property
    def extensions(self) -> bool:
        return bool(self._connection.protocol.extensions)

    async def send(self, message: Message) -> None:
        await self._connection.send(message)

    async def send_fragments(self, parts: Sequence[str]) -> None:
        await self._connection.send(parts)

    async def receive(self) -> Message:
        return await self._connection.recv()

    async def ping(self, payload: bytes) -> None:
        if isinstance(self._connection, TrioClientConnection):
            await (await self._connection.ping(payload)).wait()
        else:
            await (await self._connection.ping(payload))

    async def close(self, code: int, reason: str) -> None:
        if isinstance(self._connection, TrioClientConnection):
            await self._connection.aclose(code, reason)
        else:
            await self._connection.close(code, reason)

    async def receive_close(self) -> tuple[int, str]:
        with suppress(websockets.ConnectionClosed):
            message = await self._connection.recv()
            raise AssertionError(f"a message came before the Close: {message!r}")
        code = self._connection.close_code
        assert code is not None
        return code, self._connection.close_reason or ""


class _Aiohttp:
    """Without `autoping`, which would hide the pongs, too."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        return self._connection.protocol

    @property
    def extensions(self) -> bool:
        return bool(self._connection.compress)

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._connection.send_str(message)
        else:
            await self._connection.send_bytes(message)

    async def send_fragments(self, parts: Sequence[str]) -> None:
        raise NotImplementedError("aiohttp sends every message in one frame")

    async def receive(self) -> Message:
        message = await self._connection.receive()
        while message.type == aiohttp.WSMsgType.PING:
            await self._connection.pong(message.data)
            message = await self._connection.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        data: Message = message.data
        return data

    async def ping(self, payload: bytes) -> None:
        await self._connection.ping(payload)
        message = await self._connection.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, payload)

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code=code, message=reason.encode())

    async def receive_close(self) -> tuple[int, str]:
        message = await self._connection.receive()
        assert message.type == aiohttp.WSMsgType.CLOSE, message
        return int(message.data), message.extra or ""


class _WebsocketClient:
    """It blocks, which in a thread of its own disturbs nobody."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        return self._connection.getsubprotocol()

    @property
    def extensions(self) -> bool:
        return "sec-websocket-extensions" in (self._connection.getheaders() or {})

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._connection.send(message)
        else:
            self._connection.send_binary(message)

    async def send_fragments(self, parts: Sequence[str]) -> None:
        for number, part in enumerate(parts):
            opcode = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
            fin = int(number == len(parts) - 1)
            self._connection.send_frame(websocket.ABNF.create_frame(part, opcode, fin))

    async def receive(self) -> Message:
        opcode, data = self._connection.recv_data()
        assert isinstance(data, bytes)
        return data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data

    async def ping(self, payload: bytes) -> None:
        self._connection.ping(payload)
        opcode, data = self._connection.recv_data(control_frame=True)
        assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, payload)

    async def close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason.encode())

    async def receive_close(self) -> tuple[int, str]:
        opcode, data = self._connection.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE, data
        return int.from_bytes(data[:2], "big"), data[2:].decode()


@asynccontextmanager
async def _open_websockets(target: Target) -> AsyncGenerator[Client]:
    async with connect_asyncio(target.url, **_options(target)) as connection:
        yield _Websockets(connection)


@asynccontextmanager
async def _open_websockets_on_trio(target: Target) -> AsyncGenerator[Client]:
    async with connect_trio(target.url, **_options(target)) as connection:
        yield _Websockets(connection)


def _options(target: Target) -> dict[str, Any]:
    return {
        "subprotocols": target.subprotocols or None,
        "additional_headers": target.headers,
        "ssl": target.ssl_context(),
        "proxy": None,
    }


@asynccontextmanager
async def _open_aiohttp(target: Target) -> AsyncGenerator[Client]:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(
            target.url,
            protocols=target.subprotocols,
            headers=target.headers,
            ssl=target.ssl_context() or True,
            compress=15,
            autoping=False,
        ) as connection:
            yield _Aiohttp(connection)


@asynccontextmanager
async def _open_websocket_client(target: Target) -> AsyncGenerator[Client]:
    headers = {"Sec-WebSocket-Extensions": "permessage-deflate", **target.headers}
    connection = websocket.create_connection(
        target.url,
        timeout=PATIENCE,
        subprotocols=list(target.subprotocols) or None,
        header=headers,
        sslopt={"context": target.ssl_context()},
    )
    try:
        yield _WebsocketClient(connection)
    finally:
        connection.close()
        # After a Close of the server's, close() does nothing.
        connection.shutdown()  # type: ignore[no-untyped-call]


Program: TypeAlias = Callable[[], Awaitable[None]]


async def run_in_thread(program: Program) -> None:
    """Run what uses clients in a thread with a loop of asyncio's."""

    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await program()
        await _let_go()

    await trio.to_thread.run_sync(lambda: asyncio.run(limited()))


async def _let_go() -> None:
    """Let the loop close what was closed: a transport keeps its socket until all that it was given
    is written, and over TLS until the peer has ended it, too; without a loop that is for ever."""
    transports = getattr(asyncio.get_running_loop(), "_transports", {})
    for _ in range(200):
        if all(each._sock is None for each in transports.values()):
            break
        await asyncio.sleep(0.01)


async def run_here(program: Program) -> None:
    with trio.fail_after(PATIENCE):
        await program()


Ability: TypeAlias = Literal["ping", "fragments", "headers", "deflate", "inflate"]


@dataclass(frozen=True)
class Peer:
    """One of other people's clients.

    Attributes:
        can: what a program can have it do: send a ping, choose the fragments of a message, add
            headers to the request; that it offers permessage-deflate, and that it inflates.
        run: runs a program that uses it.
        mark: what tests with it are marked, if it needs more than Python.
    """

    open: Callable[[Target], AbstractAsyncContextManager[Client]]
    can: frozenset[Ability]
    run: Callable[[Program], Awaitable[None]] = run_in_thread
    mark: Literal["node", "browser"] | None = None

    def connect(self, url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
        """Open it; *options* are those of Target."""
        return self.open(Target(url, **options))


_ALL: Final = frozenset[Ability](["ping", "fragments", "headers", "deflate", "inflate"])

CLIENTS: Final[Mapping[str, Peer]] = {
    "websockets": Peer(_open_websockets, _ALL),
    "websockets on Trio": Peer(_open_websockets_on_trio, _ALL, run_here),
    "aiohttp": Peer(_open_aiohttp, _ALL - {"fragments"}),
    "websocket-client": Peer(_open_websocket_client, _ALL - {"inflate"}),
    "picows": Peer(open_picows, _ALL - {"deflate", "inflate"}),
    "ws": Peer(open_ws, _ALL, mark="node"),
    "Node": Peer(open_node, frozenset(["headers", "deflate", "inflate"]), mark="node"),
    "Chromium": Peer(open_chromium, frozenset(["deflate", "inflate"]), mark="browser"),
}


def clients(*abilities: Ability) -> list[Any]:
    """Those which can do all that, for `parametrize`."""
    return [
        pytest.param(peer, id=name, marks=getattr(pytest.mark, peer.mark) if peer.mark else ())
        for name, peer in CLIENTS.items()
        if peer.can.issuperset(abilities)
    ]
