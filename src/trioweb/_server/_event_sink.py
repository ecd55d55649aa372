"""How a topic looks as Server-Sent Events, and where those of one stream go.

Here are bytes: blocks of text, in chunks where the peer knows these, and the queue that takes them.
When a stream begins and ends, `_events` says.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

import trio

from .._chance import random_name
from .._close_codes import CloseCode
from .._dataclass import dataclass
from .._errors import ConnectionLost
from .._link import SendQueue, Spawn
from .._policy import Limits, Message
from .._protocol._http import Address
from .._tls import TlsStream
from .._topics import Publication
from .._wire._choice import wire_to
from .._wire._kernel import kernel_socket

_LINES: Final = r"\r\n|\r|\n"


def retry_line(seconds: float) -> str:
    """The line that says when to come back."""
    return f"retry: {round(seconds * 1000)}\n"


def block(position: str, data: str | None = None, event: str | None = None) -> str:
    """An event, or without *data* what only tells where the stream is."""
    lines = [] if event is None else [f"event: {event}"]
    if data is not None:
        lines += [f"data: {line}" for line in re.split(_LINES, data)]
    return "\n".join([*lines, f"id: {position}", "", ""])


@dataclass(frozen=True, slots=True)
class EventForm:
    """What publications look like in streams; see `PublicationForm`."""

    epoch: str
    chunked: bool

    def encode(self, publication: Publication, message: Message) -> bytes:
        position = f"{self.epoch}:{publication.offset}"
        if isinstance(message, str):
            return self.frame(block(position, message))
        return self.frame(block(position, b64encode(message).decode("ascii"), "binary"))

    def gap(self, offset: int, skipped: int) -> bytes:
        return self.frame(block(f"{self.epoch}:{offset}", f'{{"skipped": {skipped}}}', "gap"))

    def frame(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data

    @property
    def end(self) -> bytes:
        return b"0\r\n\r\n" if self.chunked else b""


class EventSink:
    """Where the events of one stream go; a subscriber, a sink, and the owner of its queue.

    Attributes:
        woken: set when the stream is to end.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        form: EventForm,
        spawn: Spawn,
        limits: Limits,
        *,
        peer: str | None,
        remote: Address,
    ) -> None:
        self.form = form
        self.remote = remote
        self.id = random_name()
        self.peer = self.id if peer is None else peer
        self.woken = trio.Event()
        tls = None
        if isinstance(stream, TlsStream) and kernel_socket(stream.transport_stream) is not None:
            tls, stream = stream.tls, stream.transport_stream
        self.queue = SendQueue(
            wire_to(stream, tls, limits.write_timeout),
            owner=self,
            spawn=spawn,
            send_bytes=limits.send_bytes,
        )
        # How far the stream goes on behind what was passed over, and how much was so far.
        self._gap: tuple[int, int] | None = None
        self.queue.set_hooks(self, closed=self.woken.set, drained=self._tell_gap)

    @property
    def _sink(self) -> EventSink:
        return self

    def __repr__(self) -> str:
        return f"<event stream {self.id}>"

    def check_writable(self) -> None:
        if not self.queue.is_open:
            raise ConnectionLost(CloseCode.ABNORMAL, "the stream is over")

    def close(self, code: int, reason: str) -> None:
        self.queue.shut()

    def missed(self, cursor: int, skipped: int) -> None:
        # Where there is no room, nothing can get ahead of it, and later ones take its place.
        self._gap = cursor, skipped
        if self.queue.is_free:
            self._tell_gap()

    def _tell_gap(self) -> None:
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self.queue.put(self.form.gap(*gap))

    def heard(self) -> None:
        pass

    def on_broken(self) -> None:
        self.woken.set()

    def on_stalled(self) -> None:
        pass
