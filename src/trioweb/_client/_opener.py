"""How one connection is opened: the way to the server, TLS, handshake, redirects.

One deadline stands over all of it, and the error that tells of it names the host and the phase.
Whatever fails leaves nothing open.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import trio

from .._arguments import check_headers, check_kind, check_passes_on
from .._callbacks import awaitable
from .._connection import Connection
from .._dataclass import dataclass
from .._error_groups import is_os_error
from .._errors import ConnectFailed, HandshakeFailed, HandshakeRejected, OpenFailed
from .._handshake import Switch, connect
from .._heads import addresses
from .._heartbeat import heartbeat_replies
from .._link import Link, Reads, Spawn
from .._policy import Deflate, Heartbeat, Limits
from .._protocol._deflate import check_compression
from .._protocol._http import Request
from .._protocol._url import Target
from .._tls import TlsStream, network_reason
from ._proxy import ENVIRONMENT, Proxy, find_proxy, parse_proxy
from ._redirects import Trail, Visit
from ._trust import default_context
from ._tunnel import connect_through

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]

# As browsers have it within an order of magnitude; nobody needs more than two.
DEFAULT_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Established:
    """A transport over which the opening handshake has succeeded."""

    stream: trio.abc.Stream
    request: Request
    switch: Switch

    def start(
        self,
        spawn: Spawn,
        heartbeat: Heartbeat | None,
        limits: Limits,
        reads: Reads | None,
    ) -> Connection:
        """Begin the connection that this is.

        Args:
            spawn: starts a task in the nursery that holds it.
            reads: reads from it, if it can; otherwise a task of its own does.
        """
        agreed = self.switch.compression
        link = Link(
            self.stream,
            self.switch.rest,
            is_client=True,
            limits=limits,
            spawn=spawn,
            replies=heartbeat_replies(heartbeat),
            compression=agreed,
        )
        link.carrier.start(reads)
        return Connection(
            link,
            self.request,
            subprotocol=self.switch.subprotocol,
            extensions="" if agreed is None else agreed.text,
            response_headers=self.switch.headers,
        )


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens connections as `open_connection` or `open_client`, the *owner*, was told."""

    owner: str
    ssl_context: ssl.SSLContext | None
    limits: Limits
    compression: Deflate | None
    dial: Dial | None
    redirects: int
    proxy: str | None
    user_agent: str | None

    def __post_init__(self) -> None:
        owner = self.owner
        check_kind(owner, "ssl_context", self.ssl_context, ssl.SSLContext, optional=True)
        check_kind(owner, "limits", self.limits, Limits)
        check_compression(self.compression)
        check_passes_on(owner, "dial(host, port)", self.dial)
        check_kind(owner, "redirects", self.redirects, int)
        if self.redirects < 0:
            raise ValueError(f"{owner}: redirects={self.redirects} must not be below 0")
        if self.proxy is not None and self.proxy != ENVIRONMENT:
            parse_proxy(owner, self.proxy)
        check_kind(owner, "user_agent", self.user_agent, str, optional=True)
        check_headers(f"{owner}: user_agent", {"User-Agent": self.user_agent or ""})

    async def open(self, visit: Visit, deadline: float) -> Established:
        """Open a WebSocket where *visit* leads to, redirects included.

        Raises:
            OpenFailed: it could not be done until *deadline*, or at all.
            What the user's `dial` raises, unless that is an OSError.
        """
        self._check_way(visit.target)
        trail = Trail(visit, self.redirects)
        while True:
            if trail.visit.target.secure and self.ssl_context is None:
                # The server has no part in this, so it is not of its time.
                begun_at = trio.current_time()
                await default_context()
                deadline += trio.current_time() - begun_at
            try:
                return await self._establish(trail.visit, deadline)
            except OpenFailed as exc:
                trail.explain(exc)
                if not isinstance(exc, HandshakeRejected):
                    raise
                trail.follow(exc)

    async def _establish(self, visit: Visit, deadline: float) -> Established:
        target = visit.target
        server = target.place
        way = _Way(server)
        stream: trio.abc.Stream | None = None
        certificate: Mapping[str, Any] | None = None
        established = None
        try:
            with trio.move_on_at(deadline):
                stream = await self._reach(target, way)
                if target.secure:
                    way.phase = "TLS handshake"
                    secured = await _secure(stream, self.ssl_context, target.name, server)
                    # Of the server, where the proxy has one, too.
                    certificate = secured.tls.certificate()
                    stream = secured
                way.phase = "opening handshake"
                switch = await connect(
                    stream,
                    target,
                    subprotocols=visit.subprotocols,
                    headers=self._introduced(visit.headers),
                    compression=self.compression,
                    max_head_bytes=self.limits.max_request_bytes,
                )
                remote, local = addresses(stream)
                request = Request(
                    "GET",
                    target.resource,
                    visit.headers,
                    remote=remote,
                    local=local,
                    secure=target.secure,
                    certificate=certificate,
                )
                established = Established(stream, request, switch)
                return established
        except Exception as exc:
            if stream is not None or not is_os_error(exc):
                raise
            raise ConnectFailed(f"could not connect to {way.end}: {network_reason(exc)}") from exc
        finally:
            if established is None and stream is not None:
                await trio.aclose_forcefully(stream)
        seconds = self.limits.connect_timeout
        text = f"{server} did not answer within {seconds:g} s ({way.phase}; Limits.connect_timeout)"
        raise ConnectFailed(text) if stream is None else HandshakeFailed(text)

    async def _reach(self, target: Target, way: _Way) -> trio.abc.Stream:
        """A stream to the target's host, without its TLS."""
        if target.is_unix:
            return await trio.open_unix_socket(target.host)
        proxy = self._proxy_to(target)
        if proxy is None:
            return await self._dial(target.host, target.port)
        way.end, server = f"the proxy {proxy.url}", way.end
        way.phase = f"connecting to {way.end}"
        stream = await self._dial(proxy.host, proxy.port)
        try:
            through: trio.abc.Stream = stream
            if proxy.scheme == "https":
                way.phase = f"TLS handshake with {way.end}"
                through = await _secure(stream, None, proxy.host, way.end)
            way.phase, way.end = f"asking {way.end}", server
            await connect_through(
                through,
                proxy,
                target.host,
                target.port,
                user_agent=self._agent(),
                max_head_bytes=self.limits.max_request_bytes,
            )
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return through

    def _check_way(self, target: Target) -> None:
        """Raise ValueError if the user has a way to go that does not lead to *target*."""
        if target.is_unix and (self.dial is not None or self.proxy not in (None, ENVIRONMENT)):
            raise ValueError(
                f"{self.owner}: url {target.url!r} is of a Unix socket, to which neither dial nor "
                "a proxy leads"
            )

    def _proxy_to(self, target: Target) -> Proxy | None:
        if self.proxy != ENVIRONMENT:
            return None if self.proxy is None else parse_proxy(self.owner, self.proxy)
        # Who dials has a way of their own.
        return find_proxy(self.owner, target) if self.dial is None else None

    async def _dial(self, host: str, port: int) -> trio.abc.Stream:
        dial = self.dial or trio.open_tcp_stream
        stream: trio.abc.Stream = await awaitable("dial(host, port)", dial(host, port))
        # What is no stream could not be closed either.
        check_kind("dial", "what it returns", stream, trio.abc.Stream)
        return stream

    def _agent(self) -> str:
        return default_user_agent() if self.user_agent is None else self.user_agent

    def _introduced(self, headers: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        """*headers* with a User-Agent, unless they have one or none is wanted."""
        agent = self._agent()
        if not agent or has_header(headers, "user-agent"):
            return headers
        return [("User-Agent", agent), *headers]


class _Way:
    """How far one attempt has come, for the text of its error.

    Attributes:
        end: whom it is connecting to.
        phase: what it is doing.
    """

    def __init__(self, end: str) -> None:
        self.end = end
        self.phase = "connecting"


async def _secure(
    stream: trio.abc.Stream, context: ssl.SSLContext | None, host: str, end: str
) -> TlsStream:
    """TLS on top of *stream*, whose other *end* must prove to be *host*."""
    secured = TlsStream(stream, context or await default_context(), server_hostname=host)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as exc:
        cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
        untrusted = isinstance(cause, ssl.SSLCertVerificationError)
        raise ConnectFailed(f"TLS with {end} failed: {cause}", untrusted=untrusted) from cause
    return secured


@cache
def default_user_agent() -> str:
    # Here, because importing it takes 15 ms.
    from importlib.metadata import version

    return f"trioweb/{version('trioweb')}"


def has_header(headers: Sequence[tuple[str, str]], name: str) -> bool:
    """Whether *headers* have *name* (in lower case)."""
    return any(key.lower() == name for key, _ in headers)
