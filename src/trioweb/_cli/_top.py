"""`trioweb top URL`: what the admin page shows, in a terminal.

It is a client of the same feed: the figures about once a second, and the lists that are asked for.
With no terminal, or `--once`, it prints them once, as plain text.

NOTE: What peers chose reaches the terminal escaped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from .._error_groups import single_cause
from .._errors import ClosedByPeer, Gap, GaveUp, TriowebError
from .._policy import Retry
from . import _secrets as secrets
from ._connect import client_ssl_context
from ._report import describe
from ._terminal import UsageError, escape, stop_on_signal, write

if TYPE_CHECKING:
    from .._topic_client import TopicClient
    from ._top_view import View

_SCHEMES: Final = {"http": "ws", "https": "wss"}
_SOCKET: Final = "/admin/socket"
_WRONG_KEY: Final = 3500
_ROWS_WITHOUT_TERMINAL: Final = 50
# What is above and between the two tables.
_LINES_BESIDE: Final = 9
_SILENT_SECONDS: Final = 5


async def top(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    options.url = _socket_url(options.url)
    keys = secrets.admin_keys(options)
    if not keys:
        raise UsageError("needs --admin-key-file or TRIOWEB_ADMIN_KEY")
    try:
        from .._topic_client import open_topic_client
        from ._top_view import View
    except ImportError as exc:
        raise UsageError(f"needs {exc.name}: pip install 'trioweb[cli,centrifuge]'") from None
    is_live = sys.stdin.isatty() and sys.stdout.isatty() and not options.once
    view = View(options.sort, options.sort_connections)
    try:
        context = client_ssl_context(options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, nursery.cancel_scope)
            async with open_topic_client(
                options.url,
                token=keys[0].decode("ascii"),
                ssl_context=context,
                retry=Retry(maximum=5) if is_live else Retry(max_attempts=1),
            ) as client:
                if is_live:
                    await _watch(client, view, nursery.cancel_scope)
                else:
                    await _print_once(client, view)
            nursery.cancel_scope.cancel()
    except (TriowebError, ValueError, ExceptionGroup) as exc:
        cause = single_cause(exc)
        if isinstance(cause, BrokenPipeError):
            return 0
        if isinstance(cause, ValueError):
            raise UsageError(str(cause)) from exc
        if not isinstance(cause, TriowebError):
            raise
        with suppress(BrokenPipeError):
            await write(sys.stderr, f"failed: {escape(_explain(cause))}\n")
        return 1
    return 0


def _socket_url(url: str) -> str:
    """Where the feed is, if the admin page or its server is at *url*."""
    parts = urlsplit(url)
    path = _SOCKET if parts.path in ("", "/", "/admin", "/admin/") else parts.path
    scheme = _SCHEMES.get(parts.scheme.lower(), parts.scheme)
    return parts._replace(scheme=scheme, path=path).geturl()


def _explain(error: TriowebError) -> str:
    last = error.last if isinstance(error, GaveUp) else error
    if isinstance(last, ClosedByPeer) and last.code == _WRONG_KEY:
        return "this is no admin key"
    return describe(error)


async def _print_once(client: TopicClient, view: View) -> None:
    """Print what there is, with rates: these need two figures."""
    async with client.subscription("overview") as overview:
        await anext(overview)
        figures = (await anext(overview)).data
    await view.ask(client, _ROWS_WITHOUT_TERMINAL)
    size = shutil.get_terminal_size((160, 50))
    await write(sys.stdout, view.render(figures, size.columns, is_live=False))


async def _watch(client: TopicClient, view: View, scope: trio.CancelScope) -> None:
    """Show it until the user has enough."""
    with _raw_terminal():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_keys, view, scope)
            await _paint(view.waiting("connecting"))
            async with client.subscription("overview") as overview:
                while True:
                    figures = None
                    # Of what was missed nothing is of interest.
                    with suppress(Gap), trio.move_on_after(_SILENT_SECONDS):
                        figures = (await anext(overview)).data
                    if figures is None:
                        await _paint(view.waiting("waiting for the server"))
                        continue
                    size = shutil.get_terminal_size()
                    room = max(4, size.lines - _LINES_BESIDE)
                    with suppress(TriowebError):  # it is asked again with the next figures
                        await view.ask(client, max(2, room // 2))
                    await _paint(view.render(figures, size.columns, is_live=True))


async def _paint(text: str) -> None:
    lines = "".join(f"{line}\x1b[K\r\n" for line in text.rstrip("\n").split("\n"))
    await write(sys.stdout, f"\x1b[H{lines}\x1b[J")


async def _obey_keys(view: View, scope: trio.CancelScope) -> None:
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        for key in os.read(descriptor, 64).decode("latin-1"):
            if key in "qQ\x04":
                scope.cancel()
            view.press(key)


@contextmanager
def _raw_terminal() -> Generator[None]:
    """Keys come one by one, and what was on the screen is there again behind the block."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    sys.stdout.flush()
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
