"""The picows client, which hands every frame to a callback; see `peer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tests.interop.peer import Client, Message, Target


class _Frame(NamedTuple):
    """A frame for keeps: picows' own is gone when its callback returns."""

    kind: WSMsgType
    fin: bool
    payload: bytes


class _Listener(WSListener):
    def __init__(self) -> None:
        self.frames: asyncio.Queue[_Frame] = asyncio.Queue()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.frames.put_nowait(_Frame(frame.msg_type, frame.fin, frame.get_payload_as_bytes()))
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class _Picows:
    """It answers pings by itself."""

    def __init__(self, transport: WSTransport, listener: _Listener) -> None:
        self._transport = transport
        self._listener = listener

    @property
    def subprotocol(self) -> str | None:
        chosen: str | None = self._transport.response.headers.get("Sec-WebSocket-Protocol")
        return chosen

    @property
    def extensions(self) -> bool:
        return "Sec-WebSocket-Extensions" in self._transport.response.headers

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._transport.send(WSMsgType.TEXT, message.encode())
        else:
            self._transport.send(WSMsgType.BINARY, message)

    async def send_fragments(self, parts: Sequence[str]) -> None:
        for number, part in enumerate(parts):
            kind = WSMsgType.CONTINUATION if number else WSMsgType.TEXT
            self._transport.send(kind, part.encode(), fin=number == len(parts) - 1)

    async def receive(self) -> Message:
        frame = await self._frame()
        while frame.kind == WSMsgType.PING:
            frame = await self._frame()
        assert frame.kind in (WSMsgType.TEXT, WSMsgType.BINARY), frame
        assert frame.fin
        return frame.payload.decode() if frame.kind == WSMsgType.TEXT else frame.payload

    async def ping(self, payload: bytes) -> None:
        self._transport.send_ping(payload)
        assert await self._frame() == _Frame(WSMsgType.PONG, True, payload)

    async def close(self, code: int, reason: str) -> None:
        self._transport.send_close(code, reason.encode())  # type: ignore[arg-type]
        await self._transport.wait_disconnected()

    async def receive_close(self) -> tuple[int, str]:
        frame = await self._frame()
        assert frame.kind == WSMsgType.CLOSE, frame
        return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()

    async def _frame(self) -> _Frame:
        return await self._listener.frames.get()


@asynccontextmanager
async def open_picows(target: Target) -> AsyncGenerator[Client]:
    headers = dict(target.headers)
    if target.subprotocols:
        headers["Sec-WebSocket-Protocol"] = ", ".join(target.subprotocols)
    listener = _Listener()
    transport, _ = await ws_connect(
        lambda: listener, target.url, ssl_context=target.ssl_context(), extra_headers=headers
    )
    try:
        yield _Picows(transport, listener)
    finally:
        transport.disconnect()
        await transport.wait_disconnected()
