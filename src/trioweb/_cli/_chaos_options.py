"""What `trioweb chaos` can be asked.  Knows nothing of networks, so that `--help` loads none."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._numbers import Number, count, port, seconds, whole
from ._parser import add_log_level

if TYPE_CHECKING:
    from ..testing._faults import FaultKind


class Span(NamedTuple):
    """A fault that an option brings about at a time: what it does, and how long otherwise."""

    effect: str
    otherwise: float = math.inf


# By the kind of the fault, which is the option's name, too.
SPANS: Final[Mapping[FaultKind, Span]] = {
    "partition": Span("let nothing pass; what was sent meanwhile arrives afterwards"),
    "half_open": Span("let connections fall silent for ever, without FIN or RST"),
    "reset": Span("reset all connections, and those that are made within the time", 0),
    "stall": Span("let nothing be read on the server's side"),
    "freeze": Span("let the server stand still, as a laptop that sleeps"),
    "refuse": Span("refuse connections; those that are there stay"),
    "ignore": Span("leave new connections without an answer"),
    "hang_up": Span("accept new connections, and close them at once"),
    "crash": Span("reset all connections, and refuse others"),
}
_SPAN: Final = re.compile(r"([0-9.]+)(?:\+([0-9.]+))?")
_ADDRESS: Final = re.compile(r"(?:(\[[^][]+\]|[^][:/]+):)?([0-9]{1,5})")

_bytes_a_second = Number(float, 1, 1e12, "a number of bytes a second from 1 on")


def _span(text: str) -> tuple[float, float | None]:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not AT or AT+SECONDS, such as 10 or 10+5")
    at, duration = match.groups()
    return seconds(at), None if duration is None else seconds(duration)


def _listen(text: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PORT or HOST:PORT, such as 9000 or 0.0.0.0:9000"
        )
    return (match[1] or "127.0.0.1").strip("[]"), port(match[2])


def _target(text: str) -> tuple[str, int]:
    host, number = _listen(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r}: nobody listens on port 0")
    return host, number


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what `trioweb chaos` takes."""
    add = command.add_argument
    add(
        "listen",
        metavar="LISTEN",
        type=_listen,
        help="where clients connect: PORT or HOST:PORT; a port of this machine alone where there "
        "is no HOST, and any free one for 0",
    )
    add("target", metavar="TARGET", type=_target, help="where the server is: PORT or HOST:PORT")
    add(
        "--seed",
        type=count,
        metavar="N",
        help="what jitter and pieces follow from; otherwise a new one each time, which is printed",
    )
    add("--verbose", action="store_true", help="tell of each piece of bytes, too")
    _add_line(command.add_argument_group("what the line is like").add_argument)
    _add_faults(
        command.add_argument_group(
            "what goes wrong",
            "AT is a number of seconds after the start, and AT+SECONDS says how long. Each may be "
            "repeated.",
        ).add_argument
    )
    add_log_level(command.add_argument, "error")


def _add_line(add: Any) -> None:
    add("--latency", type=seconds, metavar="S", help="seconds that everything is under way")
    add("--jitter", type=seconds, metavar="S", help="up to so many seconds more, at random")
    add(
        "--bandwidth",
        type=_bytes_a_second,
        metavar="N",
        help="bytes a second, for each connection and direction",
    )
    add(
        "--segment",
        type=whole,
        metavar="N",
        help="hand on at most so many bytes at a time, a random number from 1 on",
    )
    add(
        "--drop-after",
        type=count,
        metavar="N",
        help="let each direction of a connection fall "
        "silent for ever once so many bytes have passed",
    )
    add(
        "--cut-after",
        type=count,
        metavar="N",
        help="reset each connection once so many bytes have passed in one direction",
    )


def _add_faults(add: Any) -> None:
    for kind, span in SPANS.items():
        add(
            f"--{kind.replace('_', '-')}",
            action="append",
            type=_span,
            default=[],
            metavar="AT[+SECONDS]",
            help=span.effect + ("" if span.otherwise else "; otherwise only those that are there"),
        )
    add(
        "--plan",
        metavar="FILE",
        help="a Python program that sets plan to a Plan of trioweb.testing; its hosts are client "
        "and server",
    )
