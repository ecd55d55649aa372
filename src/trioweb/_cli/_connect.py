"""`trioweb connect`: a WebSocket in a terminal or a pipe.

Lines from standard input are sent, messages go to standard output, and what happens to the
connection is told on standard error; or, for scripts, everything on standard output as JSON.
"""

from __future__ import annotations

import argparse
import math
import ssl
import sys
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any
from urllib.parse import urlsplit

import trio

from .._centrifuge import USUAL_PATH
from .._client import (
    Client,
    Dial,
    Event,
    Lost,
    Messages,
    Opened,
    Undelivered,
    Waiting,
    open_client,
)
from .._close_codes import CloseCode
from .._errors import ClosedByPeer, GaveUp, TriowebError, Unsent
from .._policy import Deflate, Limits, Message, Outbox, Retry
from .._protocol._url import parse_url
from ._follow import follow
from ._input import Input
from ._report import Json, Report, Words
from ._terminal import Notices, UsageError, stop_on_signal
from ._tls import client_context

# Who reads nothing of what is told at the end for so long does not hold it up.
_LAST_WORDS_SECONDS = 5


async def connect(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    report: Report = Json() if options.json else Words(raw=options.binary)
    code = held = unsent = 0
    if options.since is not None and options.topic is None:
        raise UsageError("--since needs --topic, of which it is a position")
    try:
        if options.topic is not None:
            return await follow(options, _how(options))
        if not options.json:
            await _hint(options)
        async with _open(options) as client:
            encoding = None if options.binary else sys.stdin.encoding
            source = Input(sys.stdin.fileno(), encoding, options.max_message_bytes)
            try:
                code = await _talk(client, report, source, linger=options.linger)
            finally:
                held = source.held
                unsent = client.statistics().unsent + held
            if unsent and not code:
                await report.closing(unsent)
    except (ValueError, ImportError, OSError, TriowebError, ExceptionGroup) as exc:
        # Sending and showing may fail together.
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        match cause:
            case GaveUp(last=ClosedByPeer(code=CloseCode.NORMAL)) if (
                options.no_reconnect and not unsent
            ):
                return code
            case TriowebError():
                if isinstance(cause, Unsent):  # some may have gone while the client closed
                    unsent = cause.count + held
                elif not isinstance(cause, GaveUp):
                    unsent = 0
                with suppress(OSError), trio.move_on_after(_LAST_WORDS_SECONDS):
                    await report.failed(cause, unsent)
            case BrokenPipeError():  # whoever reads the output has enough
                return code
            case OSError():  # of a standard stream; the network's are not that
                with suppress(OSError), trio.move_on_after(_LAST_WORDS_SECONDS):
                    await Notices().tell("failed", str(cause), "red")
            case ValueError() | ImportError():  # the latter for what only an extra brings
                raise UsageError(str(cause).removeprefix("open_client: ")) from exc
            case _:
                raise
        return 1
    return code


async def _hint(options: argparse.Namespace) -> None:
    """Say what is missing where a server would wait in silence for the first command."""
    if urlsplit(options.url).path.endswith(USUAL_PATH) and not options.subprotocol:
        text = f"{USUAL_PATH} speaks the Centrifuge protocol: --topic NAME subscribes to a topic"
        await Notices().tell("hint", text, "yellow")


def _open(options: argparse.Namespace) -> AbstractAsyncContextManager[Client]:
    """The client that the options ask for.  Raises: as `_how`."""
    return open_client(
        **_how(options),
        subprotocols=options.subprotocol,
        # So that every message that the limit lets pass has room.
        outbox=Outbox(
            confirm=options.confirm,
            max_bytes=max(Outbox().max_bytes, options.max_message_bytes),
        ),
    )


def _how(options: argparse.Namespace) -> dict[str, Any]:
    """How to connect, as arguments of whatever client.

    Raises:
        UsageError, ValueError: it cannot be.
    """
    url = options.url
    dial = None
    if parse_url(url).is_unix and (
        options.host_header is not None or options.proxy not in ("environment", "none")
    ):
        raise UsageError("--host-header and --proxy lead to no Unix socket")
    if options.host_header is not None:
        if options.proxy not in ("environment", "none"):
            raise UsageError("--host-header and --proxy both say where to connect: give one")
        url, dial = _renamed(url, options.host_header)
    return {
        "url": url,
        "headers": options.header,
        "ssl_context": client_ssl_context(options),
        "retry": Retry(
            max_attempts=options.max_attempts,
            worth=(lambda error: False) if options.no_reconnect else None,
        ),
        "limits": Limits(max_message_bytes=options.max_message_bytes),
        "compression": Deflate() if options.compression else None,
        "dial": dial,
        "proxy": None if options.proxy == "none" else options.proxy,
    }


def client_ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    for option in "ca", "cert", "key", "insecure":
        if getattr(options, option):
            if not options.url.lower().startswith(("wss:", "wss+unix:")):
                raise UsageError(f"--{option} needs a URL that starts with wss://")
            return client_context(
                authority=options.ca,
                certificate=options.cert,
                key=options.key,
                insecure=options.insecure,
            )
    return None


def _renamed(url: str, host: str) -> tuple[str, Dial]:
    """*url* with another *host*, and what dials the old one for it."""
    target = parse_url(url)
    parts = urlsplit(url)
    userinfo, at, _ = parts.netloc.rpartition("@")
    renamed = parts._replace(netloc=f"{userinfo}{at}{host}").geturl()
    try:
        asked = parse_url(renamed)
    except ValueError:
        asked = None
    if asked is None or asked.resource != target.resource or "@" in host:
        raise UsageError(f"--host-header {host!r} is not HOST or HOST:PORT")

    async def dial(name: str, port: int) -> trio.abc.Stream:
        if (name, port) == (asked.host, asked.port):  # a redirect may lead elsewhere
            name, port = target.host, target.port
        return await trio.open_tcp_stream(name, port)

    return renamed, dial


async def _talk(
    client: Client,
    report: Report,
    source: Input,
    *,
    linger: float,
) -> int:
    """Send what is typed and show what comes, until the input ends or the user has enough.

    What had arrived when the input ended (and `linger` was over) is shown, for as long as whoever
    reads the output goes on with that.

    Returns:
        The exit code: 2 if a line cannot be sent; those before it are.
    """
    code = 0
    async with trio.open_nursery() as nursery:
        with client.messages(events=True) as messages:
            nursery.start_soon(_show, messages, report, nursery.cancel_scope)
            nursery.start_soon(stop_on_signal, nursery.cancel_scope)
            try:
                try:
                    while (message := await source.peek()) is not None:
                        await client.send(message)
                        source.take()
                except UsageError as exc:
                    await report.failed(exc, 0)
                    code = 2
                # Even with nothing to send: whoever asked wants to know whether it works.
                await client.wait_open()
                await client.flush()
                if not code:
                    await trio.sleep(linger)
            except GaveUp:
                await trio.sleep_forever()  # `_show` says so, after it has shown what had arrived
        # Nothing more comes: `_show` ends behind what had arrived, and with it all of this.
        nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_SECONDS
    return code


async def _show(
    messages: Messages[Message | Event], report: Report, scope: trio.CancelScope
) -> None:
    """Print messages and tell of sessions, until there is nothing more to come or whoever reads
    the output has enough.

    Args:
        scope: ends with this.  Where it has a deadline, that moves with each line that is read.
    """
    with suppress(BrokenPipeError):
        async for item in messages:
            match item:
                case Opened():
                    await report.opened(item)
                case Lost(error=error):
                    await report.lost(error)
                case Waiting():
                    await report.waiting(item)
                case Undelivered():
                    await report.undelivered(item)
                case _:
                    await report.message(item)
            if scope.deadline < math.inf:
                scope.deadline = trio.current_time() + _LAST_WORDS_SECONDS
    scope.cancel()
