"""`trioweb connect`: a WebSocket in a terminal or a pipe.

Lines from standard input are sent, messages go to standard output, and what happens to the
connection is told on standard error.
"""

from __future__ import annotations

import argparse
import signal
import ssl
import sys

import trio

from .._client import Client, Lost, Messages, Opened, open_client
from .._errors import CloseCode, ClosedByPeer, GaveUp, Unsent, is_worth_retry
from .._policy import Limits, Outbox, Retry
from ._terminal import Notices, UsageError, escape


async def connect(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    notices = Notices()

    def worth(error: Exception) -> bool:
        again = not options.no_reconnect and is_worth_retry(error)
        if again:
            notices.tell("waiting", f"to connect again: {error}", "yellow")
        return again

    try:
        opening = open_client(
            options.url,
            headers=options.header,
            subprotocols=options.subprotocol,
            ssl_context=_ssl_context(options.tls_ca),
            retry=Retry(max_attempts=options.max_attempts, worth=worth),
            outbox=Outbox(confirm=options.confirm),
            limits=Limits(max_message_bytes=options.max_message_bytes),
        )
        async with opening as client:
            await _talk(client, notices, linger=options.linger)
    except (ValueError, GaveUp, Unsent, ExceptionGroup) as exc:
        # Sending and showing may both be told that it is over.
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        match cause:
            case GaveUp(last=ClosedByPeer(code=CloseCode.NORMAL)) if options.no_reconnect:
                return 0
            case GaveUp() | Unsent():
                notices.tell("failed", str(cause), "red")
                return 1
            case ValueError():
                raise UsageError(str(cause)) from exc
            case _:
                raise
    return 0


def _ssl_context(authority: str | None) -> ssl.SSLContext | None:
    if authority is None:
        return None
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as exc:  # an SSLError is one, too
        reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise UsageError(f"--tls-ca {authority}: cannot be used: {reason}") from exc


async def _talk(client: Client, notices: Notices, *, linger: float) -> None:
    """Send what is typed and show what comes, until the input ends or the user has enough."""
    with client.messages(events=True) as messages:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, messages, notices)
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            while line := await trio.to_thread.run_sync(_read_line, abandon_on_cancel=True):
                await client.send(line.removesuffix("\n"))
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


async def _show(messages: Messages, notices: Notices) -> None:
    async for item in messages:
        match item:
            case Opened(session=session):
                notices.tell("connected", "" if session == 1 else "again", "green")
            case Lost(error=error):
                notices.tell("lost", str(error), "red")
            case str():
                print(escape(item) if sys.stdout.isatty() else item, flush=True)
            case _:
                print(f"{len(item)} bytes: {item.hex(' ')}", flush=True)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await signals.__anext__()
        scope.cancel()
