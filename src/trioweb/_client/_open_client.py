"""The block that holds a resilient client: its arguments, checked, and its task."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType

from trio.lowlevel import enable_ki_protection

from .._arguments import check_async, check_kind
from .._chance import new_random
from .._nursery import open_hidden_nursery
from .._observer import Observer
from .._policy import Deflate, Heartbeat, Limits, Outbox, Retry
from ._client import Client
from ._life import Life
from ._open import Offer
from ._opener import DEFAULT_REDIRECTS, Dial, Opener
from ._proxy import ENVIRONMENT
from ._supervisor import HeadersArgument, OnOpen, Plan, SubprotocolsArgument, UrlArgument


def open_client(
    url: UrlArgument,
    *,
    retry: Retry = Retry(),
    heartbeat: Heartbeat | None = Heartbeat(),
    outbox: Outbox = Outbox(),
    on_open: OnOpen | None = None,
    receive: bool = True,
    headers: HeadersArgument = (),
    subprotocols: SubprotocolsArgument = (),
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    dial: Dial | None = None,
    redirects: int = DEFAULT_REDIRECTS,
    proxy: str | None = ENVIRONMENT,
    user_agent: str | None = None,
    random: Random | None = None,
    observer: Observer | None = None,
) -> AbstractAsyncContextManager[Client]:
    """Hold a client that connects, and connects again, for the length of the block.

    The block begins at once: `wait_open` waits for the first connection, `send` does not
    need one.

    Args:
        url: ws:// or wss://, or an async callable that is asked for it at each attempt.
        retry: when to connect again, and when to give up.  A server's Retry-After is honoured
            up to a day.
        heartbeat: how a dead server is noticed; None for not at all.
        outbox: what is kept of what is sent, and how surely.
        on_open: `async def on_open(connection)`, run on each new connection before anything
            else uses it, within the connect timeout; it may send and receive (log in,
            subscribe, load a snapshot).  Afterwards the connection is the client's: receiving
            from it raises, and its `wait_closed` only waits.
        receive: False if this program only sends: what arrives is counted and dropped.
        headers: sent along with the handshake; or an async callable, as `url`.
        subprotocols: as for `open_connection`; or an async callable, as `url`.
        ssl_context, limits, compression, dial, redirects, proxy, user_agent: as for
            `open_connection`.
        random: where the jitter comes from; for tests.
        observer: hears of connections, their ends, and attempts that fail; see `Observer`.

    Yields:
        The Client.  Leaving the block flushes for at most `Limits.close_timeout`, closes the
        connection, and raises Unsent if that was not enough.  Leaving it by an exception or
        cancellation does not flush; what was unsent is logged, and counted in `statistics`.  The
        server is told 1011 if that was an error, and 1001 (going away) of a cancellation, Ctrl-C
        or `sys.exit`.

    Raises:
        TypeError, ValueError: an argument cannot work; nothing was begun.
        GaveUp: on leaving the block, if the client gave up and no call has said so.
        Unsent: see above; also if the client gave up and a call has said so.
        What the block raises comes out unchanged, and first; then what one of the user's own
        callables raised, unless that is about the network (an OSError, a timeout, one of Trio's
        resource errors or of an HTTP client's) or TryAgain: then the attempt has failed, and
        `Retry` decides.

    Cancellation: sends Close if the kernel takes it at once, and closes the transport.
    """
    opener = Opener(
        "open_client", ssl_context, limits, compression, dial, redirects, proxy, user_agent
    )
    offer = Offer("open_client", ssl_context, user_agent)
    for name, value in ("url", url), ("headers", headers), ("subprotocols", subprotocols):
        if callable(value):
            check_async("open_client", f"{name}()", value)
    # What may be given only once is read now; what is made for each attempt is checked then.
    headers = headers if callable(headers) else offer.headers(headers)
    subprotocols = subprotocols if callable(subprotocols) else offer.subprotocols(subprotocols)
    if not callable(url):
        offer.visit(url, () if callable(headers) else headers, ())
    check_async("open_client", "on_open(connection)", on_open, optional=True)
    check_kind("open_client", "retry", retry, Retry)
    check_kind("open_client", "heartbeat", heartbeat, Heartbeat, optional=True)
    check_kind("open_client", "outbox", outbox, Outbox)
    check_kind("open_client", "receive", receive, bool)
    check_kind("open_client", "random", random, Random, optional=True)
    check_kind("open_client", "observer", observer, Observer, optional=True)
    plan = Plan(
        url=url,
        headers=headers,
        subprotocols=subprotocols,
        offer=offer,
        opener=opener,
        on_open=on_open,
        retry=retry,
        heartbeat=heartbeat,
        limits=limits,
        observer=observer,
    )
    return _Block(Life(plan, outbox, receive=receive, random=random or new_random()))


class _Block:
    """The block of a client.

    A class, since the frame of a generator would be 0.7 KiB of each client that idles.
    """

    __slots__ = ("_life", "_nursery")

    def __init__(self, life: Life) -> None:
        self._life = life
        self._nursery = open_hidden_nursery()

    # As `protected_block`.
    @enable_ki_protection
    async def __aenter__(self) -> Client:
        nursery = await self._nursery.__aenter__()
        nursery.start_soon(self._life.supervise, nursery.start_soon)
        return Client(self._life)

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        error = value
        try:
            if error is None:
                try:
                    await self._life.leave()
                except BaseException as exc:
                    error = exc
            if error is not None:
                self._life.abandon(error)
            cause = None if error is None else type(error)
            if await self._nursery.__aexit__(cause, error, traceback):
                return True
            if error is None or error is value:
                return False
            raise error
        finally:
            del error, value  # their tracebacks lead to this frame
