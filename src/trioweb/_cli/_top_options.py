"""What `trioweb top` can be asked."""

from __future__ import annotations

import argparse
from typing import Final

from ._connect_options import add_tls
from ._parser import add_log_level

# What the two lists can be put in order by.
TOPIC_SORTS: Final = ("rate", "name", "head", "retained", "bytes", "subscribers", "lag")
CONNECTION_SORTS: Final = ("age", "queued", "lag", "rtt", "received", "address", "user")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what `trioweb top` takes."""
    add = command.add_argument
    add(
        "url",
        metavar="URL",
        help="http://HOST[:PORT]/ of the server, or of its --admin; https:// for TLS",
    )
    add(
        "--admin-key-file",
        metavar="FILE",
        help="the first key in there lets one in; otherwise that in TRIOWEB_ADMIN_KEY",
    )
    add("--once", action="store_true", help="print it once, as text")
    add(
        "--sort",
        default="rate",
        choices=TOPIC_SORTS,
        help="put topics in order by this",
    )
    add(
        "--sort-connections",
        default="age",
        choices=CONNECTION_SORTS,
        help="put connections in order by this",
    )
    add_tls(command.add_argument_group("for https"))
    add_log_level(add, "error")
