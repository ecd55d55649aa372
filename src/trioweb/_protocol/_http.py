"""HTTP/1.1 as the opening handshake needs it: headers, requests, responses.

Values alone: who reads a request is `_requests`, and of a response `_heads`.  Nothing here knows of
WebSockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote

from .._arguments import check_headers, check_kind, wrong
from .._dataclass import dataclass

# (host, port) for IP; the path, possibly empty, for Unix sockets; "" where there is none.
Address: TypeAlias = tuple[str, int] | str

# RFC 9110 section 5.5: those bytes are opaque.  Read like this they are all kept.
ENCODING = "latin-1"
BLANKS = " \t"
# RFC 9110 sections 15.3.5 and 15.4.5: these have no body, nor headers that would describe it.
_BODILESS = frozenset({204, 304})
_FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})
# So much of what a peer sent is repeated in a log; it may be a whole head.
_BRIEF_CHARS = 200


class BadHead(Exception):
    """A head that cannot be taken; `status` is what a server answers it with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Headers(Mapping[str, str]):
    """Header fields: names without regard to case, repeated ones joined by commas, as HTTP joins
    lists; those of Cookie by semicolons.

    A value is text in Latin-1, whatever its sender meant by bytes above ASCII.  Where these are
    known to be UTF-8, `value.encode("latin-1").decode()` reads them.

    Raises:
        ValueError: a field has LF or NUL in it, which no head can have.
    Source: RFC 9110 section 5.5.
    """

    # Every field as LF, name, NUL, value: an idle connection keeps its request, and this takes
    # a fifth of what objects for each field would; and whoever opens connections asks for a
    # few names, which a search for each finds sooner than a table is made.
    __slots__ = ("_text",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        fields = [f"\n{name.lower()}\0{value}" for name, value in pairs]
        self._text = "".join(fields)
        if not self._text.count("\n") == self._text.count("\0") == len(fields):
            raise ValueError("Headers: no name and no value may have LF or NUL in it")

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        # RFC 9113 section 8.2.3: a proxy may have got a cookie's parts in several fields.
        return ("; " if name.lower() == "cookie" else ", ").join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items_all()))

    def __len__(self) -> int:
        return len(dict(self.items_all()))

    def __repr__(self) -> str:
        return f"Headers({list(self.items_all())!r})"

    def get_all(self, name: str) -> list[str]:
        """Every value of *name*, in the order received."""
        _, *found = self._text.split(f"\n{name.lower()}\0")
        return [rest.partition("\n")[0] for rest in found]

    def items_all(self) -> tuple[tuple[str, str], ...]:
        """Every (name, value) pair, names in lower case, in the order received."""
        _, *fields = self._text.split("\n")
        return tuple((name, value) for name, _, value in (one.partition("\0") for one in fields))

    def tokens(self, name: str) -> list[str]:
        """The comma-separated elements of *name*, over all its values."""
        # Blanks alone: `strip()` takes more for one, of Latin-1, than anybody else on the way does.
        parts = (part.strip(BLANKS) for value in self.get_all(name) for part in value.split(","))
        return [part for part in parts if part]


class Request:
    """A request as its head tells it, checked.

    Attributes:
        method: "GET" for every WebSocket.
        target: path and query as they stand in the request line.
        path: the path, percent-decoded: as UTF-8, or as Latin-1 where it is none.
        query: the query as a dict, decoded likewise; of a repeated name, the last value.
        headers: a mapping; see `Headers`.
        origin: the Origin header, None if absent.
        subprotocols: what the peer offers, in its order of preference.
        remote, local: the two ends: (host, port), or a path, or "".
        secure: whether it came over TLS to this server itself; of what is in front of a proxy
            nobody here knows.
        certificate: what the peer's certificate says, as `ssl.SSLSocket.getpeercert` returns it;
            None if it showed none.  A server asks for one with `ssl_context.verify_mode`
            CERT_REQUIRED or CERT_OPTIONAL, and has checked it then.
        version: of HTTP: "1.1", or "1.0".
    """

    __slots__ = (
        "_read_body",
        "certificate",
        "headers",
        "local",
        "method",
        "path",
        "remote",
        "secure",
        "target",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        remote: Address = "",
        local: Address = "",
        secure: bool = False,
        certificate: Mapping[str, Any] | None = None,
        version: str = "1.1",
    ) -> None:
        self.path = _decode_text(unquote(target.partition("?")[0], ENCODING))
        self.method = method
        self.target = target
        self.headers = Headers(headers)
        self.remote = remote
        self.local = local
        self.secure = secure
        self.certificate = certificate
        self.version = version
        self._read_body: Callable[[int | None], Awaitable[bytes]] | None = None

    def __repr__(self) -> str:
        where = brief(self.target.partition("?")[0])  # a query may have a token in it
        return f"<Request {self.method} {where} from {format_address(self.remote)}>"

    @property
    def query(self) -> dict[str, str]:
        text = self.target.partition("?")[2]
        pairs = parse_qsl(text, keep_blank_values=True, encoding=ENCODING)
        return {_decode_text(name): _decode_text(value) for name, value in pairs}

    async def body(self, max_bytes: int | None = None) -> bytes:
        """The whole body; b"" if there is none.

        A peer that waits for `100 Continue` is sent it now.  A second call returns the same.

        Args:
            max_bytes: how many bytes it may have; by default, and at most,
                `Limits.max_message_bytes`.

        Raises:
            Reject: with 413, it is larger; with 400, it is malformed, or ended early; with 408, it
                comes too slowly: it has `Limits.connect_timeout` seconds, and one more for each
                8 KiB that have come.  Let it out, and the peer is told.
            RuntimeError: the request is answered already.

        Cancellation: nothing is lost; the next call goes on.  Checkpoint: if anything of it has yet
            to come.
        Concurrency: one task at a time.
        """
        return b"" if self._read_body is None else await self._read_body(max_bytes)

    @property
    def origin(self) -> str | None:
        return self.headers.get("origin")

    @property
    def subprotocols(self) -> tuple[str, ...]:
        return tuple(self.headers.tokens("sec-websocket-protocol"))


class Streamed:
    """A body that the server knows how to write, and that goes on until it ends."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a request that is no upgrade.

    Args:
        status: the HTTP status, 200 to 599; 204 and 304 allow no body.
        body: text is sent as UTF-8.  An async iterable of text or bytes is sent as it comes, each
            item at once; its `aclose`, if it has one, is called at the end, whatever that is.  One
            that raises ends the connection, so that the peer knows that something is missing.
        headers: (name, value) pairs or a mapping, kept as pairs; Content-Length or
            Transfer-Encoding, and Connection, are added, and Content-Type (text/plain) where there
            is none.

    Raises:
        TypeError, ValueError: it could not be sent.
    """

    status: int = 200
    body: str | bytes | AsyncIterable[str | bytes] | Streamed = b""
    headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()

    def __post_init__(self) -> None:
        check_kind("Response", "status", self.status, int)
        call = f"Response({self.status!r})"
        if not 200 <= self.status <= 599:
            raise ValueError(f"{call}: the status must be a whole number from 200 to 599")
        if not isinstance(self.body, (str, bytes, AsyncIterable, Streamed)):
            raise wrong(call, "body", "of type str or bytes, or an async iterable", self.body)
        if isinstance(self.body, str):
            self.body.encode()  # raises here, not where nobody expects it
        if self.body and self.status in _BODILESS:
            raise ValueError(f"{call}: must not have a body (RFC 9110)")
        pairs = check_headers(call, self.headers)
        for name, _ in pairs:
            if name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"{call}: header {name!r} is set by the server itself")
        # What was given may be an iterator, which can be read but once.
        object.__setattr__(self, "headers", pairs)

    @property
    def whole(self) -> bytes | None:
        """The body as bytes, if it is there as a whole."""
        if isinstance(self.body, str):
            return self.body.encode()
        return self.body if isinstance(self.body, bytes) else None

    def encode_head(
        self, *, sent_at: float | None = None, persists: bool = False, chunked: bool = False
    ) -> bytes:
        """The response's head as bytes.

        Args:
            sent_at: for Date, in seconds of `time.time()`; None for no Date.
            persists: another request may follow on its stream.
            chunked: a body that is not there as a whole comes in chunks, and not up to the end of
                the stream.
        """
        assert isinstance(self.headers, tuple)
        pairs = list(self.headers)
        if self.status not in _BODILESS:
            if not any(name.lower() == "content-type" for name, _ in pairs):
                pairs.append(("Content-Type", "text/plain; charset=utf-8"))
            if (whole := self.whole) is not None:
                pairs.append(("Content-Length", str(len(whole))))
            elif chunked:
                pairs.append(("Transfer-Encoding", "chunked"))
        if not persists:
            pairs.append(("Connection", "close"))
        # RFC 9110 section 6.6.1: whoever has a clock says when an answer was made.
        if sent_at is not None and not any(name.lower() == "date" for name, _ in pairs):
            # Here, since it brings a dozen modules, which no WebSocket needs.
            from email.utils import formatdate

            pairs.append(("Date", formatdate(sent_at, usegmt=True)))
        lines = [
            f"HTTP/1.1 {self.status} {_reason_of(self.status)}",
            *(f"{name}: {value}" for name, value in pairs),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii")


@cache
def _reason_of(status: int) -> str:
    # Here, since a program that accepts all its connections needs none.
    from http import HTTPStatus

    return next((each.phrase for each in HTTPStatus if each == status), "")


def brief(text: str) -> str:
    """*text* as a log may have it: quoted, in printable ASCII, and not too long."""
    return ascii(text if len(text) <= _BRIEF_CHARS else f"{text[:_BRIEF_CHARS]}...")


def format_address(address: Address) -> str:
    """*address* as people write it."""
    if isinstance(address, str):
        return address or "(no address)"
    host, port = address
    if not port:  # a proxy told the host alone
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _decode_text(latin: str) -> str:
    """Bytes that were percent-encoded and are read as Latin-1, as the text that they are: in UTF-8
    if that can be.  So there is never a surrogate, which neither JSON nor a topic's name may have.
    """
    if latin.isascii():
        return latin
    try:
        return latin.encode(ENCODING).decode()
    except UnicodeDecodeError:
        return latin
