"""`trioweb connect`: a WebSocket in a terminal or a pipe.

Lines from standard input are sent, messages go to standard output, and what happens to the
connection is told on standard error.
"""

from __future__ import annotations

import argparse
import math
import signal
import ssl
import sys
from contextlib import suppress

import trio

from .._client import Client, Lost, Messages, Opened, is_worth_retry, open_client
from .._errors import (
    CloseCode,
    ClosedByPeer,
    ConnectionClosed,
    GaveUp,
    TriowebError,
)
from .._outgoing import State
from .._policy import Limits, Outbox, Retry
from ._terminal import Notices, UsageError, escape, write_line


async def connect(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    notices = Notices()
    failed, failures = trio.open_memory_channel[Exception](math.inf)

    def worth(error: Exception) -> bool:
        if not isinstance(error, ConnectionClosed):  # Lost tells of those
            failed.send_nowait(error)
        return not options.no_reconnect and is_worth_retry(error)

    opening = open_client(
        options.url,
        headers=options.header,
        subprotocols=options.subprotocol,
        ssl_context=_ssl_context(options.url, options.tls_ca),
        retry=Retry(max_attempts=options.max_attempts, worth=worth),
        outbox=Outbox(confirm=options.confirm),
        limits=Limits(max_message_bytes=options.max_message_bytes),
    )
    refused: list[str] = []
    unsent = 0
    try:
        async with opening as client:
            try:
                await _talk(client, notices, failures, refused, linger=options.linger)
            finally:
                unsent = client.statistics().unsent + len(refused)
            if unsent:
                notices.tell("closing", f"{_lines(unsent)} to be sent; Ctrl-C drops them", "yellow")
    except (ValueError, OSError, TriowebError, ExceptionGroup) as exc:
        # Sending and showing may fail together.
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        match cause:
            case GaveUp(last=ClosedByPeer(code=CloseCode.NORMAL)) if (
                options.no_reconnect and not unsent
            ):
                return 0
            case GaveUp() if unsent:
                notices.tell("failed", f"{cause}; {_lines(unsent)} not sent", "red")
            case OSError() | TriowebError():
                notices.tell("failed", str(cause), "red")
            case ValueError():
                raise UsageError(str(cause)) from exc
            case _:
                raise
        return 1
    return 0


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _ssl_context(url: str, authority: str | None) -> ssl.SSLContext | None:
    if authority is None:
        return None
    if not url.lower().startswith("wss:"):
        raise UsageError(f"--tls-ca needs a URL that starts with wss://, not {url!r}")
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as exc:  # an SSLError is one, too
        reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise UsageError(f"--tls-ca {authority}: cannot be used: {reason}") from exc


async def _talk(
    client: Client,
    notices: Notices,
    failures: trio.MemoryReceiveChannel[Exception],
    refused: list[str],
    *,
    linger: float,
) -> None:
    """Send what is typed and show what comes, until the input ends or the user has enough.

    Args:
        failures: attempts to connect that failed.
        refused: gets the line that was read and then not accepted, if there is one.
    """
    with client.messages(events=True) as messages:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, messages, notices, nursery.cancel_scope)
            nursery.start_soon(_tell_failures, failures, notices, client)
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            with suppress(GaveUp):  # `_show` says so, after it has shown what had arrived
                while line := await trio.to_thread.run_sync(_read_line, abandon_on_cancel=True):
                    refused.append(line)
                    await client.send(line.removesuffix("\n"))
                    refused.clear()
                # Even with nothing to send: whoever asked wants to know whether it works.
                await client.wait_open()
                await client.flush()
                await trio.sleep(linger)
                nursery.cancel_scope.cancel()


def _read_line() -> str:
    """Block for a line of standard input; empty at its end.

    In a thread: a terminal must stay blocking for the shell that it belongs to, and a file
    cannot be waited for in any other way.
    """
    try:
        return sys.stdin.readline()
    except UnicodeDecodeError as exc:
        raise UsageError(f"standard input is not {exc.encoding}: {exc.reason}") from exc


async def _show(messages: Messages, notices: Notices, scope: trio.CancelScope) -> None:
    """Print messages and tell of sessions, until whoever reads the output has enough."""
    on_terminal = sys.stdout.isatty()
    async for item in messages:
        match item:
            case Opened(session=session, subprotocol=subprotocol):
                mark = "connected" if session == 1 else "connected again"
                notices.tell(mark, f"subprotocol {subprotocol}" if subprotocol else "", "green")
                continue
            case Lost(error=error):
                notices.tell("lost", str(error), "red")
                continue
            case str():
                line = escape(item) if on_terminal else item
            case _:
                line = f"{len(item)} bytes: {item.hex(' ')}"
        try:
            # In a thread: while nobody reads the output, Ctrl-C and pings still have answers.
            await trio.to_thread.run_sync(write_line, line, abandon_on_cancel=True)
        except BrokenPipeError:
            scope.cancel()


async def _tell_failures(
    failures: trio.MemoryReceiveChannel[Exception], notices: Notices, client: Client
) -> None:
    """Tell of attempts that failed, but for the one after which the client gave up."""
    async for error in failures:
        # The client gives up, or not, in the same step in which it asks whether it is worth
        # going on; so by now it has.
        if client.state is not State.CLOSED:
            notices.tell("waiting to connect again", str(error), "yellow")


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await signals.__anext__()
        scope.cancel()
