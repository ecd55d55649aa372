"""The load's way through our server's doors: as a plain subscriber, a member, a stream of events.

See `members`, whose other half this is.  Members connect and subscribe in one message, as stock
clients do.
"""

import json
import select
import socket
import sys
import time
from typing import Final

from . import wire
from .readers import PAUSE, READ_BYTES, Left
from .task import Task

PLAIN: Final = "plain"
TOPIC: Final = "news"
_BINARY: Final = 2
_SUBPROTOCOLS: Final = {"json": "centrifuge-json", "protobuf": "centrifuge-protobuf"}
_TOGETHER: Final = 20
# A frame is as long as those of the others, but for the digits of its offset.
_ABOUT: Final = 12


def _delimited(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _asked(door: str, *, recovers: bool) -> bytes:
    """The message of a member that connects, subscribes, and has nothing of the topic yet."""
    if door == "json":
        subscribe = {"channel": TOPIC} | ({"recover": True} if recovers else {})
        commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": subscribe})
        text = "\n".join(json.dumps(command) for command in commands)
        return wire.client_frame(wire.TEXT, text.encode())
    # Command: id 1, connect 4, subscribe 5; SubscribeRequest: channel 1, recover 3.
    topic = b"\x0a" + _delimited(TOPIC.encode()) + (b"\x18\x01" if recovers else b"")
    commands_ = (b"\x08\x01\x22\x00", b"\x08\x02\x2a" + _delimited(topic))
    return wire.client_frame(_BINARY, b"".join(map(_delimited, commands_)))


def _request(door: str, port: int) -> bytes:
    if door == "events":
        return b"GET / HTTP/1.1\r\nHost: %b:%d\r\nAccept: text/event-stream\r\n\r\n" % (
            wire.HOST.encode(),
            port,
        )
    name = _SUBPROTOCOLS.get(door)
    return wire.request(
        port, extra=b"" if name is None else b"Sec-WebSocket-Protocol: %b\r\n" % name.encode()
    )


class Reader:
    """Counts publications that arrive by one door; what stands in front of them is not for it.

    Attributes:
        is_open: the server has said that it is subscribed.
    """

    def __init__(self, port: int, task: Task, asked: bytes) -> None:
        self.sock = socket.create_connection((wire.HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(_request(task.door, port))
        self.is_open = False
        self._is_stream = task.door == "events"
        self._size = task.size
        self._asked = asked
        self._head = b""
        self._has_head = False
        self._frames = wire.Frames()
        self._rest = b""

    def read(self) -> int:
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise Left
        if not self._has_head:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return 0
            if not head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")):
                raise ConnectionError(f"the server refused: {head!r}")
            self._has_head = True
            if self._asked:
                self.sock.sendall(self._asked)
            else:
                self.is_open = not self._is_stream
        return self._events(data) if self._is_stream else self._messages(data)

    def _messages(self, data: bytes) -> int:
        count = 0
        for opcode, payload in self._frames.feed(data):
            if opcode not in (wire.TEXT, _BINARY):
                continue
            if self.is_open:
                count += 1
                if abs(len(payload) - self._size) > _ABOUT:
                    sys.exit(f"{len(payload)} bytes are not about {self._size}: {payload!r}")
            self.is_open = True
        return count

    def _events(self, data: bytes) -> int:
        self.is_open = self.is_open or b"id: " in data
        data = self._rest + data
        # What may be the beginning of another one.
        self._rest = data[-6:]
        return data.count(b"\ndata: ") - self._rest.count(b"\ndata: ")


def open_all(task: Task, port: int, count: int) -> list[Reader]:
    """Open so many, and have them subscribed."""
    asked = _asked(task.door, recovers=False) if task.door in _SUBPROTOCOLS else b""
    opened: list[Reader] = []
    while len(opened) < count:
        batch = [Reader(port, task, asked) for _ in range(min(_TOGETHER, count - len(opened)))]
        for reader in batch:
            while not reader.is_open:
                reader.read()
        opened += batch
    return opened


def return_at_once(task: Task, port: int) -> list[socket.socket]:
    """Have as many members as *task* says come back, and wait until each has all that it missed.

    Without publications they open their connections, and ask for nothing.
    """
    asked = _asked(task.door, recovers=True) if task.publications else b""
    poll = select.epoll()
    opened: list[socket.socket] = []
    readers: dict[int, Reader] = {}
    missing: dict[int, int] = {}
    while readers or len(opened) < task.returning:
        for _ in range(min(task.returning - len(opened), _TOGETHER)):
            reader = Reader(port, task, asked)
            fd = reader.sock.fileno()
            opened.append(reader.sock)
            readers[fd], missing[fd] = reader, task.publications
            poll.register(fd, select.EPOLLIN)
        events = poll.poll(0)
        for fd, _ in events:
            missing[fd] -= readers[fd].read()
            if readers[fd].is_open and not missing[fd]:
                poll.unregister(fd)
                del readers[fd]
        if not events and len(opened) == task.returning:
            time.sleep(PAUSE)
    return opened
