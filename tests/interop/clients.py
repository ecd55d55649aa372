"""Other people's clients behind one face, so that each test is written once.

They block or run under asyncio, so a test runs them in a thread, with `run`.  Knows nothing of the
server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Protocol, TypeAlias

import aiohttp
import trio
import websocket
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect

Message: TypeAlias = str | bytes

PATIENCE: Final = 30  # seconds; real sockets on a busy machine


class Client(Protocol):
    """What all of them can do."""

    @property
    def subprotocol(self) -> str | None: ...
    @property
    def extensions(self) -> bool:
        """Whether the server accepted any."""

    async def send(self, message: Message) -> None: ...
    async def send_fragments(self, parts: Sequence[str]) -> None: ...
    async def receive(self) -> Message: ...
    async def ping(self, payload: bytes) -> None:
        """Send a ping and wait for its pong, while nobody else receives."""

    async def close(self, code: int, reason: str) -> None: ...
    async def receive_close(self) -> tuple[int, str]:
        """Wait for the server's Close."""


class _Websockets:
    def __init__(self, connection: ClientConnection) -> None:
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
        await (await self._connection.ping(payload))

    async def close(self, code: int, reason: str) -> None:
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


class Connect(Protocol):
    """Opens one of them; all offer permessage-deflate."""

    def __call__(
        self, url: str, subprotocols: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[Client]: ...


@asynccontextmanager
async def _connect_websockets(url: str, subprotocols: Sequence[str] = ()) -> AsyncGenerator[Client]:
    offered = [websockets.Subprotocol(name) for name in subprotocols] or None
    async with websockets_connect(url, subprotocols=offered, proxy=None) as connection:
        yield _Websockets(connection)


@asynccontextmanager
async def _connect_aiohttp(url: str, subprotocols: Sequence[str] = ()) -> AsyncGenerator[Client]:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(
            url, protocols=subprotocols, compress=15, autoping=False
        ) as connection:
            yield _Aiohttp(connection)


@asynccontextmanager
async def _connect_websocket_client(
    url: str, subprotocols: Sequence[str] = ()
) -> AsyncGenerator[Client]:
    connection = websocket.create_connection(
        url,
        timeout=PATIENCE,
        subprotocols=list(subprotocols) or None,
        header=["Sec-WebSocket-Extensions: permessage-deflate"],
    )
    try:
        yield _WebsocketClient(connection)
    finally:
        connection.close()
        # After a Close of the server's, close() does nothing.
        connection.shutdown()  # type: ignore[no-untyped-call]


CLIENTS: Final[Mapping[str, Connect]] = {
    "websockets": _connect_websockets,
    "aiohttp": _connect_aiohttp,
    "websocket-client": _connect_websocket_client,
}


async def run(program: Callable[[], Awaitable[None]]) -> None:
    """Run what uses the clients, in a thread with a loop of asyncio's."""

    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await program()

    await trio.to_thread.run_sync(lambda: asyncio.run(limited()))
