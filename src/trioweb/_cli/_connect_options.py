"""What `trioweb connect` can be asked."""

from __future__ import annotations

import argparse
from typing import Any

from .._policy import Limits
from ._argument_types import header, position, subprotocol
from ._numbers import seconds, whole
from ._parser import add_log_level


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what `trioweb connect` takes."""
    command.add_argument(
        "url",
        metavar="URL",
        help="ws://HOST[:PORT]/PATH, or wss:// for TLS; ws+unix:///SOCKET:/PATH for a Unix socket",
    )
    _add_messages(command.add_argument_group("what is sent and shown"))
    _add_topic(command.add_argument_group("with a topic server (the Centrifuge protocol)"))
    _add_handshake(command.add_argument_group("how it connects"))
    add_tls(command.add_argument_group("for wss"))
    add = command.add_argument_group("how long it goes on").add_argument
    add(
        "--max-attempts",
        type=whole,
        metavar="N",
        help="give up after so many attempts without a stable connection; otherwise never",
    )
    add("--no-reconnect", action="store_true", help="end when the connection does")
    add(
        "--linger",
        type=seconds,
        default=0,
        metavar="S",
        help="after the end of the input, show for so long what still arrives",
    )
    add_log_level(command.add_argument, "error")


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
        "opened, lost, waiting, undelivered, closing and failed, and with --topic subscribed "
        "and gap",
    )
    add(
        "--confirm",
        action="store_true",
        help="keep what was sent until the server's endpoint has confirmed it, and send it "
        "again on the next connection otherwise",
    )
    add(
        "--max-message-bytes",
        type=whole,
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
        type=position,
        metavar="EPOCH:OFFSET",
        help="begin behind this publication, as the end of an earlier run told it",
    )


def _add_handshake(group: Any) -> None:
    add = group.add_argument
    add(
        "--header",
        action="append",
        type=header,
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
        type=subprotocol,
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


def add_tls(group: Any) -> None:
    trust = group.add_mutually_exclusive_group()
    trust.add_argument("--ca", metavar="FILE", help="trust this certificate authority, too")
    trust.add_argument(
        "--insecure",
        action="store_true",
        help="trust any server; whoever is on the way may read and write along",
    )
    group.add_argument("--cert", metavar="FILE", help="show this certificate chain to the server")
    group.add_argument("--key", metavar="FILE", help="its key, if that is in another file")
