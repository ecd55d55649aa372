"""The command line.  The only place that prints.

Exit codes: 0 for a normal end, 1 for a failure while running, 2 for what the user can mend
before starting again (one line says what), 130 for a second Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn

import trio

from ._broadcast import Broadcast
from ._errors import CloseCode, single_cause
from ._http import format_address
from ._policy import Limits, Message, check_message
from ._server import Server, serve_listeners
from ._topics import open_hub

# What each signal tells the peers: come back soon, or this server goes.
_CLOSE_CODES: dict[int, CloseCode] = {
    signal.SIGTERM: CloseCode.SERVICE_RESTART,
    signal.SIGINT: CloseCode.GOING_AWAY,
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _UsageError(Exception):
    """The user can mend it; the text says how."""


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for an error instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class _Formatter(logging.Formatter):
    """What peers sent cannot move a terminal's cursor, or forge a record.

    A record is one line, and a traceback behind it is indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def _number(kind: type[int] | type[float], low: float, high: float, what: str) -> Any:
    """A converter for argparse that says what would be right."""

    def convert(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(-1)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return number

    return convert


_port = _number(int, 0, 65535, "a port from 0 to 65535")
_whole = _number(int, 1, 2**63, "a whole number from 1 on")
_count = _number(int, 0, 2**63, "a whole number from 0 on")
_seconds = _number(float, 0, 86400, "a number of seconds from 0 to 86400")


def _app_heartbeat(text: str) -> tuple[str, str | None]:
    # At the last "=", as a message may well contain one and a reply hardly does.
    message, equals, reply = text.rpartition("=")
    if not equals or not message:
        raise argparse.ArgumentTypeError(f"{text!r} is not MESSAGE=REPLY")
    try:
        check_message("it", text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return message, reply or None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trioweb", description="WebSockets for Trio programs.")
    parser.add_argument("--version", action="version", version=f"trioweb {version('trioweb')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    command = commands.add_parser(
        "serve",
        help="run a broadcast server with a chat page",
        description="Run a broadcast server: every path is a topic, and what a client sends to "
        "ws://HOST/lobby reaches everyone on /lobby. With a browser, any path is a chat page; "
        "/healthz says ok, /stats tells numbers as JSON. SIGTERM and Ctrl-C close softly.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=_serve)
    add = command.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every IPv4 one")
    add("--port", type=_port, default=8000, help="port to listen on; 0 for any free one")
    add("--history", type=_count, default=20, metavar="N", help="past messages for newcomers")
    add("--no-echo", action="store_true", help="do not send a message back to its sender")
    add("--max-topics", type=_whole, default=10_000, metavar="N", help="topics at one time")
    add("--tls-cert", metavar="FILE", help="serve wss and https with this certificate chain")
    add("--tls-key", metavar="FILE", help="its key, if that is in another file")
    add(
        "--origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this Origin connect, too; may be repeated; '*' for all",
    )
    add(
        "--max-message-bytes",
        type=_whole,
        default=Limits().max_message_bytes,
        metavar="N",
        help="larger messages are refused with Close 1009",
    )
    add(
        "--max-connections",
        type=_whole,
        default=Limits().max_connections,
        metavar="N",
        help="further ones are refused with 503",
    )
    add(
        "--app-heartbeat",
        action="append",
        type=_app_heartbeat,
        default=[],
        metavar="MESSAGE=REPLY",
        help="answer this text message here instead of broadcasting it; without a REPLY, "
        "swallow it; may be repeated",
    )
    add("--grace", type=_seconds, default=10, metavar="S", help="seconds a soft close may take")
    add("--spread", type=_seconds, default=0, metavar="S", help="spread its Closes over seconds")
    add(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="what to log on standard error",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    try:
        code: int = trio.run(options.run, options)
    except BaseException as error:
        cause = single_cause(error)
        if isinstance(cause, _UsageError):
            print(f"trioweb: {cause}", file=sys.stderr)
            return 2
        if isinstance(cause, KeyboardInterrupt):
            return 130
        raise
    return code


def _ssl_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise _UsageError("--tls-key needs --tls-cert, the certificate it belongs to")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as exc:
        reason = f" ({exc.reason})" if exc.reason else ""
        raise _UsageError(
            f"--tls-cert {certificate}: not a PEM certificate with its key{reason}; "
            "give both in one file, or the key with --tls-key"
        ) from exc
    except OSError as exc:
        # OpenSSL does not say which of the two it could not read.
        paths = [path for path in (certificate, key) if path and not os.access(path, os.R_OK)]
        raise _UsageError(
            f"cannot read {' and '.join(paths) or certificate}: {exc.strerror}"
        ) from exc
    return context


async def _serve(options: argparse.Namespace) -> int:
    context = _ssl_context(options.tls_cert, options.tls_key)
    heartbeats: dict[Message, Message | None] = dict(options.app_heartbeat)
    limits = Limits(
        max_message_bytes=options.max_message_bytes, max_connections=options.max_connections
    )
    async with open_hub(max_topics=options.max_topics) as hub:
        broadcast = Broadcast(hub, history=options.history, echo=not options.no_echo)
        listeners = await _listen(options, context)
        run = partial(
            serve_listeners,
            broadcast.handle,
            listeners,
            admit=broadcast.admit,
            http=broadcast.http,
            origins=options.origin,
            app_heartbeats=heartbeats,
            limits=limits,
            hub=hub,
        )
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:

                async def serve_and_end(task_status: trio.TaskStatus[Server]) -> None:
                    await run(task_status=task_status)
                    nursery.cancel_scope.cancel()

                broadcast.server = await nursery.start(serve_and_end)
                _announce(options.host, broadcast.server.port, secure=context is not None)
                close_code = _CLOSE_CODES[await signals.__anext__()]
                nursery.start_soon(
                    broadcast.server.drain, options.grace, options.spread, close_code
                )
                async for number in signals:
                    if number == signal.SIGINT:
                        raise KeyboardInterrupt
    return 0


async def _listen(
    options: argparse.Namespace, context: ssl.SSLContext | None
) -> list[trio.abc.Listener[Any]]:
    try:
        listeners = await trio.open_tcp_listeners(options.port, host=options.host)
    except (OSError, UnicodeError) as exc:  # the latter for a name that no host can have
        where = format_address((options.host, options.port))
        reason = getattr(exc, "strerror", None) or exc
        raise _UsageError(
            f"cannot listen on {where}: {reason}; choose another --host or --port"
        ) from exc
    if context is None:
        return list(listeners)
    return [trio.SSLListener(listener, context) for listener in listeners]


def _announce(host: str, port: int, *, secure: bool) -> None:
    """Say where to go; the URL stands alone on standard output, for scripts."""
    address = format_address((host, port))
    s = "s" if secure else ""
    print(f"http{s}://{address}/", flush=True)
    print(
        f"Every path is a topic, for browsers and for ws{s}://{address}/… alike. "
        "Ctrl-C closes softly, a second one at once.",
        file=sys.stderr,
        flush=True,
    )
