"""The picows server, which hands every frame to a callback; it keeps no record.  See `common`."""

import asyncio
from typing import Any

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from tests.interop.servers.common import (
    CLOSE_CODE,
    CLOSE_ME,
    CLOSE_REASON,
    FRAGMENT_ME,
    FRAGMENTS,
    HEADER,
    PING_ME,
    PONGED,
    SHOW_HEADER,
    SUBPROTOCOL,
    arguments,
    say,
    say_closed,
)

PORT, TLS, _ = arguments()
everybody: set[WSTransport] = set()


class Talk(WSListener):
    """Pings are answered by picows itself."""

    end: tuple[Any, str] = (1006, "")

    def on_ws_connected(self, transport: WSTransport) -> None:
        everybody.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        match frame.msg_type:
            case WSMsgType.CLOSE:
                # Its codes are an enumeration to the type checker alone.
                self.end = (frame.get_close_code(), frame.get_close_reason())
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            case WSMsgType.PONG if payload == PING_ME.encode():
                transport.send(WSMsgType.TEXT, PONGED.encode())
            case WSMsgType.TEXT if payload == CLOSE_ME.encode():
                transport.send_close(CLOSE_CODE, CLOSE_REASON.encode())  # type: ignore[arg-type]
            case WSMsgType.TEXT if payload == PING_ME.encode():
                transport.send_ping(payload)
            case WSMsgType.TEXT if payload == SHOW_HEADER.encode():
                transport.send(WSMsgType.TEXT, transport.request.headers[HEADER].encode())
            case WSMsgType.TEXT if payload == FRAGMENT_ME.encode():
                for number, part in enumerate(FRAGMENTS):
                    kind = WSMsgType.CONTINUATION if number else WSMsgType.TEXT
                    transport.send(kind, part.encode(), fin=number == len(FRAGMENTS) - 1)
            case WSMsgType.TEXT | WSMsgType.BINARY:
                for peer in everybody:
                    peer.send(frame.msg_type, payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        everybody.remove(transport)
        say_closed(*self.end)


def answer(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
    headers = {}
    if SUBPROTOCOL in request.headers.get("Sec-WebSocket-Protocol", "").split(", "):
        headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), Talk())


async def main() -> None:
    server = await ws_create_server(answer, "127.0.0.1", PORT, ssl=TLS)
    say(server.sockets[0].getsockname()[1])
    await server.serve_forever()


asyncio.run(main())
