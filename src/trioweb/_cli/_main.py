"""The commands, and how one of them is run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import trio

from .._error_groups import single_cause
from .._protocol._speedups import LANGUAGE
from . import _chaos_options, _connect_options, _serve_options, _top_options
from ._connect import connect
from ._logging import BackgroundHandler
from ._parser import HelpFormatter, Parser
from ._serve import serve
from ._settings import Settings
from ._terminal import Formatter, JsonFormatter, UsageError, prepare_standard_streams
from ._worker import process_of


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trioweb", description="WebSockets for Trio programs.")
    about = f"trioweb {version('trioweb')}, frames in {LANGUAGE}"
    parser.add_argument("--version", action="version", version=about)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _add_serve(commands)
    _add_connect(commands)
    _add_chaos(commands)
    _add_top(commands)
    return parser


def _add_serve(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="run a broadcast server with a chat page",
        description="Run a broadcast server: every path is a topic, and what a client sends to "
        "ws://HOST/lobby reaches everyone on /lobby. With a browser, any path is a chat page; "
        "stock clients of the Centrifuge protocol connect to /connection/websocket; "
        "/healthz says ok, /stats tells numbers as JSON. SIGTERM and Ctrl-C close softly; SIGHUP "
        "reads the configuration and all files again, or with a terminal closes softly, too.",
        formatter_class=HelpFormatter,
    )
    command.set_defaults(run=serve, settings=_serve_options.add_options(command))


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
        formatter_class=HelpFormatter,
    )
    command.set_defaults(run=connect)
    _connect_options.add_options(command)


def _add_chaos(commands: Any) -> None:
    command = commands.add_parser(
        "chaos",
        help="put a network that breaks on command before a server",
        description="A TCP proxy: what connects to LISTEN reaches TARGET over a network that is "
        "slow, or breaks, as the options or a plan say. It is the network of trioweb.testing, for "
        "browsers, phones and programs in any language. LISTEN stands on standard output, and what "
        "happens on standard error. Ctrl-C ends it.",
        formatter_class=HelpFormatter,
    )
    command.set_defaults(run=_run_chaos)
    _chaos_options.add_options(command)


def _add_top(commands: Any) -> None:
    command = commands.add_parser(
        "top",
        help="watch a server's topics and connections in a terminal",
        description="Show about once a second what the admin page of `trioweb serve` shows. Keys: "
        "s and c change what topics and connections are put in order by, r reverses that, q and "
        "Ctrl-C quit. With no terminal, it prints all of it once.",
        epilog="Exit code: 0 for a normal end, 1 if it was not let in or there is no such server, "
        "2 for what can be mended on the command line.",
        formatter_class=HelpFormatter,
    )
    command.set_defaults(run=_run_top)
    _top_options.add_options(command)


async def _run_top(options: argparse.Namespace) -> int:
    from ._top import top  # the client takes a while to load

    return await top(options)


async def _run_chaos(options: argparse.Namespace) -> int:
    from ._chaos import chaos  # what tests need takes a while to load

    return await chaos(options)


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for.

    Raises:
        UsageError: something beside the command line cannot be.
        SystemExit: something on it cannot be, or that was all.
    """
    options = _parser().parse_args(arguments)
    options.command_line = sys.argv[1:] if arguments is None else arguments
    settings: Settings | None = getattr(options, "settings", None)
    return options if settings is None else settings.complete(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    prepare_standard_streams()
    try:
        options = _read(arguments)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 2
    except UsageError as error:
        return _complain(error)
    handler = BackgroundHandler(sys.stderr)
    is_json = getattr(options, "log_format", "text") == "json"
    whose = process_of(options)
    handler.setFormatter(JsonFormatter(whose) if is_json else Formatter(whose))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    try:
        code: int = trio.run(options.run, options)
    except BaseException as error:
        cause = single_cause(error)
        if isinstance(cause, UsageError):
            return _complain(cause)
        if isinstance(cause, KeyboardInterrupt):
            return 130
        raise
    finally:
        handler.close()
    return code


def _complain(error: UsageError) -> int:
    print(f"trioweb: {error}", file=sys.stderr)
    return 2
