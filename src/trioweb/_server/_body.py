"""The body of a request, off its stream, within limits of size and time.

Nothing of it is read before somebody asks for it.  What follows it is left alone, for the request
that comes next.
"""

from __future__ import annotations

from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from .._policy import bound
from .._protocol._bodies import BadBody, BodyDecoder
from .._protocol._http import Request
from .._protocol._requests import body_length, expects_continue
from .._refusals import Reject

_READ_BYTES: Final = 64 * 2**10
# A peer sends it at least so fast, on the average; a slow phone does several times that.
_BYTES_PER_SECOND: Final = 8 * 2**10
# Chunks of one byte each take a microsecond: after so many pieces, others have their turn.
_PIECES_PER_CHECKPOINT: Final = 256
# To read on what nobody asked for is cheaper than a new connection, up to here.
_MAX_DRAINED_BYTES: Final = 64 * 2**10
_MAX_DRAIN_SECONDS: Final = 1.0

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """The body of *request*.

    Args:
        rest: what has come behind the request's head.
        max_bytes: how large it may be, `Limits.max_message_bytes`; None for any size.
        patience: seconds that it may take, but for those that its size allows.

    Attributes:
        over: set when all of it has come.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        request: Request,
        rest: bytes,
        *,
        max_bytes: int | None,
        patience: float,
    ) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._patience = patience
        self._decoder = BodyDecoder(body_length(request))
        self._decoder.buffer += rest
        self._is_expected = expects_continue(request)
        self._pieces = bytearray()
        self._content = b""
        self._fault: tuple[int, str] | None = None
        self._is_closed = False
        self._began_at: float | None = None
        self.over = trio.Event()
        if self._decoder.is_complete:
            self.over.set()

    async def read(self, max_bytes: int | None = None) -> bytes:
        """See `Request.body`."""
        if self._is_closed:
            raise RuntimeError("request.body: the request is answered already")
        limit = min(bound(self._max_bytes), bound(max_bytes))
        if self._began_at is None:
            self._began_at = trio.current_time()
        self._check(limit)
        while not self.over.is_set():
            received = self._decoder.received
            deadline = self._began_at + self._patience + received / _BYTES_PER_SECOND
            await self._read_on(deadline, limit)
            self._check(limit)
        return self._content

    def _check(self, limit: float) -> None:
        """Raise Reject if it is not to be had, or has more than *limit* bytes."""
        if self._fault is None and self._decoder.size > limit:
            raise Reject(413, f"a body of more than {limit} bytes\n")
        if self._fault is not None:
            status, reason = self._fault
            raise Reject(status, f"{reason}\n")

    # An interrupt between what is taken from the stream and what is kept would lose some.
    @enable_ki_protection
    async def _read_on(self, deadline: float, limit: float) -> None:
        """Take what has come, and read more if that is not all, nor more than *limit*; or note what
        is at fault."""
        try:
            for _ in range(_PIECES_PER_CHECKPOINT):
                piece = self._decoder.decode()
                if not piece:
                    break
                self._pieces += piece
            else:
                await trio.lowlevel.checkpoint()
                return
            if self._decoder.is_complete:
                self._content = bytes(self._pieces)
                self._pieces.clear()
                self.over.set()
            if self._decoder.is_complete or self._decoder.size > limit:
                return
            with trio.CancelScope(deadline=deadline) as scope:
                await self._receive()
            if scope.cancelled_caught:
                self._fault = 408, "no whole body in time"
        except BadBody as exc:
            self._fault = 400, f"not a body: {exc}"
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fault = 400, "the peer has gone"

    async def _receive(self) -> None:
        if self._is_expected and not self._has_begun:
            self._is_expected = False
            await self._stream.send_all(_CONTINUE)
        data = await self._stream.receive_some(_READ_BYTES)
        if not data:
            raise BadBody("it ended early")
        self._decoder.buffer += data

    @property
    def _has_begun(self) -> bool:
        return bool(self._decoder.buffer or self._decoder.received)

    def close(self) -> None:
        """The request is answered, and nobody may ask for it any more."""
        self._is_closed = True

    @property
    def may_be_drained(self) -> bool:
        """Whether all of it has come, or what is missing is worth to be read, as far as is known.

        A peer that still waits for 100 may send it or not, which nobody can tell.
        """
        missing = self._decoder.size - self._decoder.received
        waits = self._is_expected and not self._has_begun
        return self._fault is None and not waits and missing <= _MAX_DRAINED_BYTES

    async def drain(self) -> bool:
        """Read what nobody asked for; return whether the next request follows now."""
        limit = self._decoder.received + _MAX_DRAINED_BYTES
        deadline = trio.current_time() + _MAX_DRAIN_SECONDS
        while not self.over.is_set():
            if not self.may_be_drained or self._decoder.size > limit:
                return False
            await self._read_on(deadline, limit)
        return True

    @property
    def rest(self) -> bytes:
        """What has come behind it, once it is over."""
        return bytes(self._decoder.buffer)
