"""TLS as a filter of bytes: records out of what is sent, and out of records what was.

`Tls` does no I/O, so that a link seals what it writes at once and opens what anybody has read
for it.  `TlsStream` puts one on a transport; the opening handshakes go through that, and so
does all of a connection whose transport is no kernel socket.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from ._error_groups import causes

# RFC 8446 section 5.1: what one record holds.
RECORD_BYTES: Final = 16 * 2**10
_READ_BYTES: Final = 64 * 2**10
# To open a record takes 1 to 3 µs, however little it holds: after so many, others get their turn.
_RECORDS_PER_TURN: Final = 128
# While another handshake is under way, so much is kept of what is to be sent: as much as a program
# sends in the time of a few round trips, and no more for a peer that never ends it.
_HELD_BYTES: Final = 2**20
END_OF_TLS: Final = "the peer ended TLS"


def describe_tls(error: ssl.SSLError) -> str:
    """What OpenSSL has to say about *error*, as people write it."""
    reason = error.reason or str(error) or type(error).__name__
    return f"TLS failed: {reason.replace('_', ' ').lower()}"


def network_reason(error: Exception) -> str:
    """Why the network said no, in words, and without the address, which the caller knows."""
    failure = causes(error)[0]
    if isinstance(failure, ssl.SSLError):
        return describe_tls(failure)
    number = getattr(failure, "errno", None) or 0
    text = os.strerror(number) if number in errno.errorcode else str(failure)
    cause = failure.__cause__
    # Errors of Trio's streams say nothing themselves. One that tried every address of a name says
    # only that; the first failure speaks for them all.
    if isinstance(cause, Exception) and (not text or isinstance(cause, ExceptionGroup)):
        return network_reason(cause)
    return text or type(failure).__name__


class Tls:
    """One side of a TLS connection, as a filter.

    NOTE: Records leave in the order in which they were made, so what `seal` returned is
    written before it is called again, or stands in `unwritten`.

    Attributes:
        end: why nothing more comes from the peer; None while something may.
        has_more: whether `open(b"")` may find more in what has come.
        unwritten: what of the last records the transport has not taken.
    """

    __slots__ = ("_held", "_incoming", "_object", "_outgoing", "end", "has_more", "unwritten")

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        # What could not become a record yet, since a server has asked for another handshake: in
        # TLS 1.2 it may, for a certificate, say.
        self._held: list[bytes] = []
        self.end: str | None = None
        self.has_more = False
        self.unwritten = b""

    def shake(self) -> bool:
        """Go on with the handshake; return whether it is done.

        Raises:
            ssl.SSLError: it has failed.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def certificate(self) -> Mapping[str, Any] | None:
        """The peer's certificate, as `ssl.SSLSocket.getpeercert` has it; None if it showed none, or
        none was asked for."""
        return self._object.getpeercert() or None

    def seal(self, data: bytes) -> bytes:
        """Make a record of *data*, at most RECORD_BYTES; `b""` makes none.

        Returns:
            The records to write: what TLS has to say itself, and then that one.

        Raises:
            ssl.SSLError: nothing can be sent any more.
        """
        if self._held:
            self._hold(data)
            self._seal_held()
        elif data:
            try:
                self._object.write(data)
            except ssl.SSLWantReadError:
                self._hold(data)
        return self._outgoing.read()

    def _hold(self, data: bytes) -> None:
        if sum(map(len, self._held)) + len(data) > _HELD_BYTES:
            raise ssl.SSLError("the peer has begun another handshake, and does not end it")
        self._held.append(data)

    def _seal_held(self) -> None:
        with suppress(ssl.SSLWantReadError):
            while self._held:
                if self._held[0]:
                    self._object.write(self._held[0])
                del self._held[0]

    @property
    def pending(self) -> int:
        """How many bytes TLS itself has to say, which `seal` returns."""
        return self._outgoing.pending

    def is_due(self) -> bool:
        """Whether `seal(b"")` has something to return."""
        if self.pending or not self._held:
            return bool(self.pending)
        try:
            return self.shake()
        except ssl.SSLError:
            return False  # whoever reads is told

    def take(self, wire: bytes) -> None:
        """Take what came from the peer's transport."""
        self._incoming.write(wire)

    def open(self, wire: bytes) -> bytes:
        """Take what came from the peer's transport; return what its records hold.

        There may be so many that it `has_more`, which `b""` goes on with.
        """
        self.take(wire)
        data = self.read(RECORD_BYTES)
        self.has_more = False
        if not self._incoming.pending or not data:
            return data  # what almost always comes: one record
        pieces = [data]
        while self._incoming.pending and (data := self.read(RECORD_BYTES)):
            pieces.append(data)
            if len(pieces) == _RECORDS_PER_TURN:
                self.has_more = bool(self._incoming.pending)
                break
        return b"".join(pieces)

    def read(self, max_bytes: int) -> bytes:
        """Return what the records hold that have come, at most one's; `b""` if that is nothing
        yet, or the `end`."""
        if self.end is not None:
            return b""
        try:
            data = self._object.read(max_bytes)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as exc:
            self.end = describe_tls(exc)
            return b""
        if not data:
            self.end = END_OF_TLS
        return data

    def close(self) -> None:
        """Say that nothing more will be sent (RFC 8446 section 6.1); that is then `pending`."""
        # The peer's own end is not waited for: what it still sends reaches nobody.
        with suppress(ssl.SSLError):
            self._object.unwrap()


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS on top of *transport_stream*.  `do_handshake` comes first.

    Attributes:
        has_received: whether the peer has sent anything of its handshake.
    """

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.transport_stream = transport_stream
        self.tls = Tls(context, server_side=server_side, server_hostname=server_hostname)
        # Who reads may have to answer, too: that there is no other handshake, say.
        self._writing = trio.Lock()
        self.has_received = False

    async def do_handshake(self) -> None:
        """Agree with the peer.

        Raises:
            trio.BrokenResourceError: it failed, for the reason that is the cause.

        Cancellation: leaves a transport that can only be closed.
        """
        is_done = False
        while not is_done:
            try:
                is_done = self.tls.shake()
            except ssl.SSLError as exc:
                # So that the peer's log says why, too.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()
                raise trio.BrokenResourceError("the TLS handshake failed") from exc
            await self._flush()
            if not is_done:
                wire = bytes(await self.transport_stream.receive_some(_READ_BYTES))
                if not wire:
                    raise trio.BrokenResourceError("the peer ended the TLS handshake")
                self.has_received = True
                self.tls.take(wire)

    async def _flush(self, data: bytes = b"") -> None:
        async with self._writing:
            if wire := self.tls.seal(data):
                await self.transport_stream.send_all(wire)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(data) or 1, RECORD_BYTES):
            try:
                await self._flush(bytes(data[start : start + RECORD_BYTES]))
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError("TLS failed") from exc

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        # One chunk of the transport's may bring many records, which are given without a wait.
        await trio.lowlevel.checkpoint()
        while not (data := self.tls.read(max_bytes or RECORD_BYTES)):
            if self.tls.end is not None and self.tls.end != END_OF_TLS:
                raise trio.BrokenResourceError(self.tls.end)
            # Not only before waiting: what was read may have been the peer's last.
            if self.tls.is_due():
                await self._flush()
            if self.tls.end is not None:
                break
            wire = bytes(await self.transport_stream.receive_some(_READ_BYTES))
            if not wire:
                break
            self.tls.take(wire)
        return data

    async def send_eof(self) -> None:
        """End TLS and, where it can be half-closed, the transport."""
        self.tls.close()
        await self._flush()
        if isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self.tls.close()
                await self._flush()
        finally:
            await self.transport_stream.aclose()
