"""The command line.  The only place that prints.

Exit codes: 0 for a normal end, 1 for a failure while running, 2 for what the user can mend
before starting again (one line says what), 130 for Ctrl-C where that is not a normal end.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

import trio

from .._errors import single_cause
from .._offers import check_request_headers, check_subprotocols
from .._policy import Limits, check_message
from .._protocol._speedups import LANGUAGE
from .._server._origins import Origins
from .._topics import Position
from ._chaos_options import add_options as add_chaos_options
from ._connect import connect
from ._logging import BackgroundHandler
from ._metrics import address
from ._numbers import count as _count
from ._numbers import port as _port
from ._numbers import seconds as _seconds
from ._numbers import whole as _whole
from ._serve import serve
from ._terminal import Formatter, JsonFormatter, UsageError, prepare_standard_streams


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for an error instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's, without defaults that say no more than that nothing was given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _mode(text: str) -> int:
    if not re.fullmatch("[0-7]{3,4}", text) or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode such as 0660")
    return int(text, 8)


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


def _origin(text: str) -> str:
    try:
        Origins([text])
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("origins: ")) from exc
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon:
        # It is not repeated: it may be a secret.
        raise argparse.ArgumentTypeError("not NAME: VALUE, as there is no colon in it")
    if name.lower() == "host":
        raise argparse.ArgumentTypeError("a Host is given with --host-header")
    try:
        check_request_headers("it", [(name, value)])
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("it: ")) from exc
    return name, value


def _position(text: str) -> Position:
    epoch, _, offset = text.rpartition(":")
    if not epoch or not re.fullmatch("[0-9]{1,18}", offset):
        raise argparse.ArgumentTypeError(f"{text!r} is not EPOCH:OFFSET")
    return Position(epoch, int(offset))


def _subprotocol(text: str) -> str:
    try:
        check_subprotocols("it", [text])
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("it: ")) from exc
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trioweb", description="WebSockets for Trio programs.")
    about = f"trioweb {version('trioweb')}, frames in {LANGUAGE}"
    parser.add_argument("--version", action="version", version=about)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_serve(commands)
    _add_connect(commands)
    _add_chaos(commands)
    return parser


def _add_serve(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="run a broadcast server with a chat page",
        description="Run a broadcast server: every path is a topic, and what a client sends to "
        "ws://HOST/lobby reaches everyone on /lobby. With a browser, any path is a chat page; "
        "stock clients of the Centrifuge protocol connect to /connection/websocket; "
        "/healthz says ok, /stats tells numbers as JSON. SIGTERM and Ctrl-C close softly; SIGHUP "
        "reads the certificate again, or with a terminal closes softly, too.",
        formatter_class=_HelpFormatter,
    )
    command.set_defaults(run=serve)
    add = command.add_argument
    add(
        "--host",
        action="append",
        type=lambda text: text.removeprefix("[").removesuffix("]"),
        help="address or name to listen on; 0.0.0.0 for every IPv4 address, :: for every IPv6 one; "
        "may be repeated; otherwise 127.0.0.1",
    )
    add("--port", type=_port, help="port to listen on; 0 for any free one; otherwise 8000")
    add("--unix", metavar="PATH", help="listen on this Unix socket instead")
    add(
        "--unix-mode",
        type=_mode,
        metavar="MODE",
        help="who may connect to it, as for chmod; otherwise 0660: its owner and group",
    )
    add(
        "--fd",
        action="append",
        type=_count,
        metavar="N",
        help="listen on this descriptor instead, a listening socket that was passed on; may be "
        "repeated. Those of a service manager (LISTEN_FDS) need no option",
    )
    add(
        "--subprotocol",
        action="append",
        type=_subprotocol,
        default=[],
        metavar="NAME",
        help="agree to this subprotocol where a client offers it; may be repeated",
    )
    add("--history", type=_count, default=20, metavar="N", help="past messages for newcomers")
    add("--no-echo", action="store_true", help="do not send a message back to its sender")
    add("--max-topics", type=_whole, default=10_000, metavar="N", help="topics at one time")
    add("--tls-cert", metavar="FILE", help="serve wss and https with this certificate chain")
    add("--tls-key", metavar="FILE", help="its key, if that is in another file")
    add(
        "--api-key-file",
        metavar="FILE",
        help="whoever sends one of these keys, one a line and of at least 16 characters, as "
        "Authorization: Bearer publishes by POST; SIGHUP reads them again. TRIOWEB_API_KEY has "
        "some, too; without any, nobody publishes by POST",
    )
    add(
        "--topics",
        metavar="FILE",
        help="what may be done with which topics: TOML, a table for each namespace; otherwise "
        "everybody may do everything",
    )
    add(
        "--token-secret-file",
        metavar="FILE",
        help="whoever has no token (JWT) that one of these secrets has signed gets 401, but for "
        "topics with anonymous = true; one a line, of at least 32 characters; SIGHUP reads them "
        "again. TRIOWEB_TOKEN_SECRET has some, too",
    )
    add(
        "--token-key-file",
        metavar="FILE",
        help="likewise with these public keys (PEM; RSA or P-256)",
    )
    add(
        "--origin",
        action="append",
        type=_origin,
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
        "--max-messages-per-second",
        type=_whole,
        metavar="N",
        help="a peer that sends faster is read more slowly; otherwise there is no limit",
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
    add(
        "--metrics",
        type=address,
        metavar="HOST:PORT",
        help="tell numbers to Prometheus at http://HOST:PORT/metrics; otherwise to nobody",
    )
    add(
        "--metrics-topic",
        action="append",
        default=[],
        metavar="NAME",
        help="tell those of this topic there, too; may be repeated",
    )
    # Container runtimes kill after 10 seconds, and the process has to end, too.
    add("--grace", type=_seconds, default=8, metavar="S", help="seconds a soft close may take")
    add("--spread", type=_seconds, default=0, metavar="S", help="spread its Closes over so many")
    _add_log_level(command, "info")
    add(
        "--log-format",
        default="text",
        choices=["text", "json"],
        help="how: a line of text, or one JSON object a line for programs to read",
    )


def _add_connect(commands: Any) -> None:
    command = commands.add_parser(
        "connect",
        help="talk to a WebSocket server from a terminal or a pipe",
        description="Send each line of standard input as a text message, print the messages "
        "that arrive, and tell on standard error what happens to the connection. When it is "
        "lost, connect again, and send then what was typed meanwhile. The end of the input "
        "(Ctrl-D in a terminal) ends it once everything is sent.",
        epilog="Exit code: 0 for a normal end, and Ctrl-C is one, 1 if it gave up or could not "
        "send everything, 2 for what can be mended on the command line or in the input.",
        formatter_class=_HelpFormatter,
    )
    command.set_defaults(run=connect)
    command.add_argument(
        "url",
        metavar="URL",
        help="ws://HOST[:PORT]/PATH, or wss:// for TLS; ws+unix:///SOCKET:/PATH for a Unix socket",
    )
    _add_messages(command.add_argument_group("what is sent and shown"))
    _add_topic(command.add_argument_group("with a topic server (the Centrifuge protocol)"))
    _add_handshake(command.add_argument_group("how it connects"))
    _add_tls(command.add_argument_group("for wss"))
    add = command.add_argument_group("how long it goes on").add_argument
    add(
        "--max-attempts",
        type=_whole,
        metavar="N",
        help="give up after so many attempts without a stable connection; otherwise never",
    )
    add("--no-reconnect", action="store_true", help="end when the connection does")
    add(
        "--linger",
        type=_seconds,
        default=0,
        metavar="S",
        help="after the end of the input, show for so long what still arrives",
    )
    _add_log_level(command, "error")


def _add_chaos(commands: Any) -> None:
    command = commands.add_parser(
        "chaos",
        help="put a network that breaks on command before a server",
        description="A TCP proxy: what connects to LISTEN reaches TARGET over a network that is "
        "slow, or breaks, as the options or a plan say. It is the network of trioweb.testing, for "
        "browsers, phones and programs in any language. LISTEN stands on standard output, and what "
        "happens on standard error. Ctrl-C ends it.",
        formatter_class=_HelpFormatter,
    )
    command.set_defaults(run=_run_chaos)
    add_chaos_options(command)
    _add_log_level(command, "error")


async def _run_chaos(options: argparse.Namespace) -> int:
    from ._chaos import chaos  # what tests need takes a while to load

    return await chaos(options)


def _add_messages(group: Any) -> None:
    add = group.add_argument
    add(
        "--binary",
        action="store_true",
        help="send each line as a binary message, whatever its bytes are, and write binary "
        "messages as they come, each with a line end; otherwise, and to a terminal, they are "
        "shown as hexadecimal digits",
    )
    add(
        "--json",
        action="store_true",
        help="for scripts: write messages and all that happens to standard output, one JSON "
        'object a line: {"event": "message", "text": …} or {…, "base64": …}, and the events '
        "opened, lost, waiting, undelivered, closing and failed",
    )
    add(
        "--confirm",
        action="store_true",
        help="keep what was sent until the server's endpoint has confirmed it, and send it "
        "again on the next connection otherwise",
    )
    add(
        "--max-message-bytes",
        type=_whole,
        default=Limits().max_message_bytes,
        metavar="N",
        help="larger messages are refused with Close 1009, and larger lines are not sent",
    )


def _add_topic(group: Any) -> None:
    group.add_argument(
        "--topic",
        metavar="NAME",
        help="subscribe to this topic, show what is published to it, and publish each line; "
        "TRIOWEB_TOKEN in the environment says who you are",
    )
    group.add_argument(
        "--since",
        type=_position,
        metavar="EPOCH:OFFSET",
        help="begin behind this publication, as the end of an earlier run told it",
    )


def _add_handshake(group: Any) -> None:
    add = group.add_argument
    add(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="NAME:VALUE",
        help="send this header along with the handshake; may be repeated",
    )
    add(
        "--host-header",
        metavar="HOST[:PORT]",
        help="ask for this host (with wss, by its certificate, too), but at the URL's address",
    )
    add(
        "--subprotocol",
        action="append",
        type=_subprotocol,
        default=[],
        metavar="NAME",
        help="offer this subprotocol; may be repeated",
    )
    add(
        "--proxy",
        metavar="URL",
        default="environment",
        help="reach the server through this proxy, such as http://HOST:3128 or "
        "socks5h://HOST:1080; none for none, and environment for what HTTPS_PROXY, NO_PROXY and "
        "the like say",
    )
    add("--compression", action="store_true", help="offer to compress messages")


def _add_tls(group: Any) -> None:
    trust = group.add_mutually_exclusive_group()
    trust.add_argument("--ca", metavar="FILE", help="trust this certificate authority, too")
    trust.add_argument(
        "--insecure",
        action="store_true",
        help="trust any server; whoever is on the way may read and write along",
    )
    group.add_argument("--cert", metavar="FILE", help="show this certificate chain to the server")
    group.add_argument("--key", metavar="FILE", help="its key, if that is in another file")


def _add_log_level(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--log-level",
        default=default,
        choices=["debug", "info", "warning", "error"],
        help="what to log on standard error",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    prepare_standard_streams()
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    handler = BackgroundHandler(sys.stderr)
    is_json = getattr(options, "log_format", "text") == "json"
    text = Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if is_json else text)
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    try:
        code: int = trio.run(options.run, options)
    except BaseException as error:
        cause = single_cause(error)
        if isinstance(cause, UsageError):
            print(f"trioweb: {cause}", file=sys.stderr)
            return 2
        if isinstance(cause, KeyboardInterrupt):
            return 130
        raise
    finally:
        handler.close()
    return code
