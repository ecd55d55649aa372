"""Converters of options into what they mean, for argparse, which say what would be right."""

from __future__ import annotations

import argparse
import re

from .._offers import check_request_headers, check_subprotocols
from .._policy import check_message
from .._server._origins import Origins
from .._server._proxies import Proxies
from .._topics import Position


def host(text: str) -> str:
    return text.removeprefix("[").removesuffix("]")


def address(text: str) -> tuple[str, int]:
    """HOST:PORT."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9100")
    return host, int(port)


def mode(text: str) -> int:
    if not re.fullmatch("[0-7]{3,4}", text) or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode such as 0660")
    return int(text, 8)


def broker(text: str) -> str:
    # It is not repeated, as it may have a password.
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise argparse.ArgumentTypeError("does not begin with redis://, rediss:// or unix://")
    return text


def app_heartbeat(text: str) -> tuple[str, str | None]:
    # At the last "=", as a message may well contain one and a reply hardly does.
    message, equals, reply = text.rpartition("=")
    if not equals or not message:
        raise argparse.ArgumentTypeError(f"{text!r} is not MESSAGE=REPLY")
    try:
        check_message("it", text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return message, reply or None


def origin(text: str) -> str:
    try:
        Origins([text])
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("origins: ")) from exc
    return text


def proxy(text: str) -> str:
    try:
        Proxies([text])
    except ValueError as exc:
        complaint = str(exc).removeprefix("trusted_proxies: ")
        raise argparse.ArgumentTypeError(complaint) from exc
    return text


def cookie_name(text: str) -> str:
    # RFC 6265 section 4.1.1: a token of HTTP.
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of a cookie")
    return text


def header(text: str) -> tuple[str, str]:
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


def position(text: str) -> Position:
    epoch, _, offset = text.rpartition(":")
    if not epoch or not re.fullmatch("[0-9]{1,18}", offset):
        raise argparse.ArgumentTypeError(f"{text!r} is not EPOCH:OFFSET")
    return Position(epoch, int(offset))


def subprotocol(text: str) -> str:
    try:
        check_subprotocols("it", [text])
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("it: ")) from exc
    return text
