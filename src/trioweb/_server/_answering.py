"""Plain HTTP answers, on their way to the peer.

Everything that is written has the write timeout, a body that is made meanwhile too; and such a body
is closed on every way out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import disable_ki_protection

from .._arguments import wrong
from .._protocol._http import BadHead, Response, Streamed
from ._leaving import Presence

_logger = logging.getLogger("trioweb.server")

# An answered peer has so long to take the answer and close: closing at once with bytes of
# its unread would send an RST, which may overtake the answer.
_LINGER_SECONDS: Final = 1.0
_PIECE_BYTES: Final = 64 * 2**10
# So long may a body that was made by the user take to clean up, whatever has become of its peer.
_CLOSE_SECONDS: Final = 1.0

_UNWATCHED: Final = Presence(0)

# What is answered where the application says nothing of methods: RFC 9110 section 15.5.6.
ALLOW: Final = ("Allow", "GET, HEAD")


def refusal(error: BadHead) -> Response:
    """The answer to a head that cannot be taken."""
    headers = {
        405: [ALLOW],
        # RFC 6455 section 4.2.2: say which version would do.
        426: [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")],
    }
    return Response(error.status, f"{error.reason}\n", headers.get(error.status, ()))


class Cut(Exception):
    """An answer was not written to its end; `error` is the user's, if it was that, and `level` that
    of the line in the log."""

    def __init__(
        self, reason: str, error: Exception | None = None, *, level: int = logging.INFO
    ) -> None:
        super().__init__(reason)
        self.error = error
        self.level = logging.ERROR if error is not None else level


class Answer:
    """A response, as one request gets it.

    Args:
        with_body: not for HEAD.
        chunked: the peer knows chunks; without them a body that is not whole ends with the stream.
        persists: another request may follow, if the body allows it.

    Attributes:
        persists: whether one may.
    """

    def __init__(
        self, response: Response, *, with_body: bool, chunked: bool, persists: bool
    ) -> None:
        self._response = response
        self._with_body = with_body
        self._chunked = chunked
        is_endless = isinstance(response.body, Streamed) and with_body
        self.persists = persists and not is_endless and (chunked or response.whole is not None)

    @property
    def head(self) -> bytes:
        return self._response.encode_head(
            sent_at=time.time(), persists=self.persists, chunked=self._chunked
        )

    async def write(
        self,
        stream: trio.abc.Stream,
        presence: Presence = _UNWATCHED,
        *,
        write_timeout: float,
    ) -> None:
        """Write it to its end.

        Args:
            presence: of the peer, which a body that is made meanwhile is for.

        Raises:
            Cut: the peer has gone, or takes nothing, or the body has failed.
        """
        response, head = self._response, self.head
        try:
            if isinstance(response.body, AsyncIterable):
                body = response.body.__aiter__()
                try:
                    await _write(stream, head, write_timeout)
                    if self._with_body:
                        await self._write_pieces(stream, body, presence, write_timeout)
                finally:
                    await _close(response.body, body)
            else:
                whole = response.whole if self._with_body else None
                await _write(stream, head + (whole or b""), write_timeout)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError) as exc:
            raise Cut("the peer has gone") from exc
        except trio.TooSlowError as exc:
            raise Cut("the peer does not read") from exc

    async def _write_pieces(
        self,
        stream: trio.abc.Stream,
        body: AsyncIterator[str | bytes],
        presence: Presence,
        write_timeout: float,
    ) -> None:
        while True:
            piece = await presence.during(lambda: _next(body))
            if piece is None:
                break
            if not piece:
                await trio.lowlevel.checkpoint()
            elif self._chunked:
                await _write(stream, b"%x\r\n%b\r\n" % (len(piece), piece), write_timeout)
            else:
                await _write(stream, piece, write_timeout)
        if self._chunked:
            await _write(stream, b"0\r\n\r\n", write_timeout)


@disable_ki_protection
async def _next(body: AsyncIterator[str | bytes]) -> bytes | None:
    """The next piece of a user's *body*; None if there is none.

    Raises:
        Cut: it has failed.
    """
    try:
        piece = await body.__anext__()
        if isinstance(piece, str):
            return piece.encode()
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise wrong("Response", "each of body", "of type str or bytes", piece)
    except StopAsyncIteration:
        return None
    except Exception as exc:
        raise Cut("its body has failed", exc) from exc
    return bytes(piece)


async def _close(*bodies: object) -> None:
    """Let a user's body clean up: the first of *bodies* that knows how."""
    for aclose in (getattr(body, "aclose", None) for body in bodies):
        if aclose is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                try:
                    await aclose()
                except Exception:
                    _logger.exception("error while the body of a response was closed")
            return


async def _write(stream: trio.abc.Stream, data: bytes, write_timeout: float) -> None:
    for start in range(0, len(data), _PIECE_BYTES):
        with trio.fail_after(write_timeout):
            await stream.send_all(data[start : start + _PIECE_BYTES])


async def end(stream: trio.abc.Stream) -> None:
    """End *stream* so that the peer can read the answer to its end."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        with trio.move_on_after(_LINGER_SECONDS):
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            else:
                await stream.aclose()
