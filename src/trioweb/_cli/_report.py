"""How `trioweb connect` tells what happens: in words for people, or as JSON for scripts."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from typing import Any, Final, Protocol

from .._client import Opened, Undelivered, Waiting
from .._close_codes import CloseCode
from .._errors import ConnectFailed, ConnectionClosed, ConnectionLost, Gap, GaveUp, Unsent
from .._policy import Message
from .._topics import Position
from ._terminal import Notices, escape, write

# Of a message that was given up: enough to know it again.
_SHOWN_CHARACTERS: Final = 200


class Report(Protocol):
    """What there is to tell.  `message` raises BrokenPipeError when nobody listens any more."""

    async def opened(self, event: Opened) -> None: ...

    async def message(self, message: Message) -> None: ...

    async def lost(self, error: Exception) -> None: ...

    async def waiting(self, event: Waiting) -> None: ...

    async def undelivered(self, event: Undelivered) -> None: ...

    async def closing(self, unsent: int) -> None: ...

    async def failed(self, error: Exception, unsent: int) -> None: ...

    # Of a topic.

    async def subscribed(self, *, recovered: bool) -> None: ...

    async def publication(self, data: Any, position: Position | None) -> None: ...

    async def gap(self, gap: Gap) -> None: ...

    async def position(self, position: Position) -> None: ...


class Words:
    """Messages on standard output, and the rest on standard error.

    Args:
        raw: write binary messages as they came, and not in hexadecimal digits, but to a terminal.
    """

    def __init__(self, *, raw: bool) -> None:
        self._notices = Notices()
        self._on_terminal = sys.stdout.isatty()
        self._raw = raw and not self._on_terminal

    async def opened(self, event: Opened) -> None:
        mark = "connected" if event.session == 1 else "connected again"
        text = f"subprotocol {event.subprotocol}" if event.subprotocol else ""
        await self._notices.tell(mark, text, "green")

    async def message(self, message: Message) -> None:
        if isinstance(message, str):
            line: str | bytes = f"{escape(message) if self._on_terminal else message}\n"
        elif self._raw:
            line = message + b"\n"
        else:
            line = f"{len(message)} bytes: {message.hex(' ')}\n"
        await write(sys.stdout, line)

    async def lost(self, error: Exception) -> None:
        await self._notices.tell("lost", describe(error), "red")

    async def waiting(self, event: Waiting) -> None:
        text = f"next attempt in {duration(event.seconds)}"
        if not isinstance(event.error, ConnectionClosed):
            text = f"{describe(event.error)}; {text}"
        elif event.seconds < 1:  # why a session ended has just been told
            return
        await self._notices.tell("waiting to connect again", text, "yellow")

    async def undelivered(self, event: Undelivered) -> None:
        message = repr(event.message)
        if len(message) > _SHOWN_CHARACTERS:
            message = f"{message[:_SHOWN_CHARACTERS]}…"
        text = f"sent {event.sends} times and never confirmed: {message}"
        await self._notices.tell("undelivered", text, "red")

    async def closing(self, unsent: int) -> None:
        text = f"{_lines(unsent)} to be sent; Ctrl-C drops them"
        await self._notices.tell("closing", text, "yellow")

    async def failed(self, error: Exception, unsent: int) -> None:
        said = isinstance(error, Unsent)  # its text has the number
        left = f"; {_lines(unsent)} not sent" if unsent and not said else ""
        await self._notices.tell("failed", describe(error) + left, "red")

    async def subscribed(self, *, recovered: bool) -> None:
        await self._notices.tell("subscribed", "", "green")  # a gap has been told

    async def publication(self, data: Any, position: Position | None) -> None:
        is_plain = isinstance(data, str | bytes)
        await self.message(data if is_plain else json.dumps(data, ensure_ascii=False))

    async def gap(self, gap: Gap) -> None:
        await self._notices.tell("gap", str(gap), "red")

    async def position(self, position: Position) -> None:
        await self._notices.tell("ended", f"--since {_shown(position)} goes on there", "yellow")


class Json:
    """Everything on standard output, one JSON object a line."""

    async def opened(self, event: Opened) -> None:
        await self._tell("opened", session=event.session, subprotocol=event.subprotocol)

    async def message(self, message: Message) -> None:
        await self._tell("message", **_content(message))

    async def lost(self, error: Exception) -> None:
        code, reason = (
            (error.code, error.reason) if isinstance(error, ConnectionClosed) else (None, "")
        )
        await self._tell("lost", code=code, reason=reason, error=describe(error))

    async def waiting(self, event: Waiting) -> None:
        await self._tell(
            "waiting",
            seconds=round(event.seconds, 3),
            attempt=event.attempt,
            error=describe(event.error),
        )

    async def undelivered(self, event: Undelivered) -> None:
        await self._tell("undelivered", sends=event.sends, **_content(event.message))

    async def closing(self, unsent: int) -> None:
        await self._tell("closing", unsent=unsent)

    async def failed(self, error: Exception, unsent: int) -> None:
        await self._tell("failed", unsent=unsent, error=describe(error))

    async def subscribed(self, *, recovered: bool) -> None:
        await self._tell("subscribed", recovered=recovered)

    async def publication(self, data: Any, position: Position | None) -> None:
        said = _content(data) if isinstance(data, str | bytes) else {"data": data}
        await self._tell("message", **said, position=_shown(position))

    async def gap(self, gap: Gap) -> None:
        await self._tell("gap", missing=gap.missing)

    async def position(self, position: Position) -> None:
        pass  # each message had its own

    async def _tell(self, event: str, **fields: Any) -> None:
        # In ASCII, so that it is the same in every locale, and harmless in a terminal.
        await write(sys.stdout, (json.dumps({"event": event, **fields}) + "\n").encode())


def _content(message: Message) -> dict[str, str]:
    if isinstance(message, str):
        return {"text": message}
    return {"base64": b64encode(message).decode()}


def describe(error: Exception) -> str:
    """*error* in words, with the option that might help."""
    match error.last if isinstance(error, GaveUp) else error:
        case ConnectionLost(code=CloseCode.MESSAGE_TOO_BIG):
            return f"{error}; see --max-message-bytes"
        case ConnectFailed(untrusted=True):
            return f"{error}; --ca FILE trusts its authority, --insecure any server"
    return str(error)


def duration(seconds: float) -> str:
    """A time to wait, as precisely as people want to know it."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} hour{'s' if hours > 1 else ''}{f' {minutes} min' if minutes else ''}"


def _shown(position: Position | None) -> str | None:
    """As `--since` takes it."""
    return None if position is None else f"{position.epoch}:{position.offset}"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
