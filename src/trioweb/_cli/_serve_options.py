"""What `trioweb serve` can be asked: a function for each thing that options are about."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from .._keys import TOKEN_COOKIE
from .._policy import Limits
from .._workers._processes import Inheritance
from ._argument_types import (
    address,
    app_heartbeat,
    broker,
    cookie_name,
    host,
    mode,
    origin,
    proxy,
    subprotocol,
)
from ._numbers import count, port, seconds, whole
from ._parser import add_log_level
from ._settings import Settings
from ._worker import OPTION


def add_options(command: argparse.ArgumentParser) -> Settings:
    """Add what `trioweb serve` takes; the table of it."""
    settings = Settings(command)
    group = settings.group
    _add_places(group("where it listens"))
    _add_workers(group("processes"))
    # For a parent to say to its workers, and nothing for anybody else.
    command.add_argument(OPTION, type=Inheritance.parse, help=argparse.SUPPRESS)
    _add_topics(group("topics"))
    _add_store(group("what outlives it"))
    _add_broker(group("joined with other servers"))
    _add_access(group("who may do what"))
    _add_messages(group("what is agreed with peers"))
    _add_limits(group("limits"))
    _add_metrics(group("numbers for Prometheus"))
    _add_admin(group("the admin page"))
    _add_ending(group("how it ends"))
    _add_logs(group("logs"))
    return settings


def _add_places(add: Any) -> None:
    add(
        "--host",
        action="append",
        type=host,
        help="address or name to listen on; 0.0.0.0 for every IPv4 address, :: for every IPv6 one; "
        "may be repeated; otherwise 127.0.0.1",
    )
    add("--port", type=port, help="port to listen on; 0 for any free one; otherwise 8000")
    add("--unix", metavar="PATH", help="listen on this Unix socket instead")
    add(
        "--unix-mode",
        type=mode,
        metavar="MODE",
        help="who may connect to it, as for chmod; otherwise 0660: its owner and group",
    )
    add(
        "--fd",
        action="append",
        type=count,
        metavar="N",
        help="listen on this descriptor instead, a listening socket that was passed on; may be "
        "repeated. Those of a service manager (LISTEN_FDS) need no option",
    )
    add(
        "--tls-cert",
        rereadable=True,
        metavar="FILE",
        help="serve wss and https with this certificate chain",
    )
    add(
        "--tls-key",
        rereadable=True,
        metavar="FILE",
        help="its key, if that is in another file",
    )

    add(
        "--trusted-proxy",
        action="append",
        type=proxy,
        default=[],
        metavar="ADDRESS",
        help="believe what a proxy there says in X-Forwarded-For: an address, a network such as "
        "10.0.0.0/8, or unix for whoever comes over a Unix socket; may be repeated",
    )


def _add_workers(add: Any) -> None:
    add(
        "--workers",
        type=whole,
        metavar="N",
        help="serve by so many processes, which share all topics; one that dies is replaced, and "
        "SIGHUP replaces all of them, one by one, so that each reads everything again. Limits "
        "are for each of them; otherwise one process serves",
    )


def _add_topics(add: Any) -> None:
    add("--history", type=count, default=20, metavar="N", help="past messages for newcomers")
    add("--no-echo", action="store_true", help="do not send a message back to its sender")
    add("--max-topics", type=whole, default=10_000, metavar="N", help="topics at one time")
    add(
        "--topics",
        rereadable=True,
        metavar="FILE",
        help="what may be done with which topics: TOML, a table for each namespace; otherwise "
        "everybody may do everything",
    )


def _add_store(add: Any) -> None:
    add(
        "--store",
        metavar="FILE",
        help="keep the topics in this file, made if there is none, so that whoever comes back "
        "after a restart, or a kill, goes on where they were; one server at a time can have it; "
        "otherwise topics end with the process",
    )


def _add_broker(add: Any) -> None:
    add(
        "--broker",
        action="append",
        type=broker,
        default=[],
        metavar="URL",
        help="share topics with all servers that name this Redis or Valkey: "
        "redis://[USER@]HOST[:PORT][/DATABASE], rediss:// for TLS, unix:///PATH; may be repeated, "
        "for several that have a part of the topics each, and with --broker-sentinel",
    )
    add(
        "--broker-password-file",
        metavar="FILE",
        help="its password, read each time that it is connected to; TRIOWEB_BROKER_PASSWORD may "
        "have it, too, or a URL in TRIOWEB_BROKER",
    )
    add(
        "--broker-prefix",
        default="trioweb",
        metavar="NAME",
        help="what all that is kept there begins with; one for each application",
    )
    add(
        "--broker-sentinel",
        metavar="NAME",
        help="those are sentinels, which say where the server is that leads NAME",
    )
    add(
        "--broker-generation",
        type=whole,
        default=1,
        metavar="N",
        help="one more whenever the list of several is changed, for all servers together",
    )


def _add_access(add: Any) -> None:
    add(
        "--origin",
        rereadable=True,
        action="append",
        type=origin,
        default=[],
        metavar="ORIGIN",
        help="let pages of this Origin connect, too; may be repeated; '*' for all",
    )
    add(
        "--api-key-file",
        rereadable=True,
        metavar="FILE",
        help="whoever sends one of these keys, one a line and of at least 16 characters, as "
        "Authorization: Bearer publishes by POST; SIGHUP reads them again. TRIOWEB_API_KEY has "
        "some, too; without any, nobody publishes by POST",
    )
    add(
        "--token-secret-file",
        rereadable=True,
        metavar="FILE",
        help="whoever has no token (JWT) that one of these secrets has signed gets 401, but for "
        "topics with anonymous = true; one a line, of at least 32 characters; SIGHUP reads them "
        "again. TRIOWEB_TOKEN_SECRET has some, too",
    )
    add(
        "--token-key-file",
        rereadable=True,
        metavar="FILE",
        help="likewise with these public keys (PEM; RSA or P-256)",
    )
    add("--token-audience", metavar="TEXT", help="what a token's aud must be; otherwise anything")
    add("--token-issuer", metavar="TEXT", help="what a token's iss must be; otherwise anything")
    add(
        "--token-cookie",
        type=cookie_name,
        default=TOKEN_COOKIE,
        metavar="NAME",
        help="the cookie in which pages have their token",
    )


def _add_messages(add: Any) -> None:
    add(
        "--subprotocol",
        action="append",
        type=subprotocol,
        default=[],
        metavar="NAME",
        help="agree to this subprotocol where a client offers it; may be repeated",
    )
    add(
        "--app-heartbeat",
        action="append",
        type=app_heartbeat,
        default=[],
        metavar="MESSAGE=REPLY",
        help="answer this text message here instead of broadcasting it; without a REPLY, "
        "swallow it; may be repeated",
    )


def _add_limits(add: Any) -> None:
    add(
        "--max-message-bytes",
        type=whole,
        default=Limits().max_message_bytes,
        metavar="N",
        help="larger messages are refused with Close 1009",
    )
    add(
        "--max-messages-per-second",
        type=whole,
        metavar="N",
        help="a peer that sends faster is read more slowly; otherwise there is no limit",
    )
    add(
        "--max-connections",
        type=whole,
        default=Limits().max_connections,
        metavar="N",
        help="further ones are refused with 503",
    )


def _add_metrics(add: Any) -> None:
    add(
        "--metrics",
        type=address,
        metavar="HOST:PORT",
        help="tell numbers to Prometheus at http://HOST:PORT/metrics; otherwise to nobody",
    )
    add(
        "--metrics-topic",
        rereadable=True,
        action="append",
        default=[],
        metavar="NAME",
        help="tell those of this topic there, too; may be repeated",
    )


def _add_admin(add: Any) -> None:
    add(
        "--admin-key-file",
        rereadable=True,
        metavar="FILE",
        help="whoever has one of these keys, one a line and of at least 16 characters, gets in at "
        "/admin, and is told the numbers at /metrics; SIGHUP reads them again. TRIOWEB_ADMIN_KEY "
        "has some, too; without any, nobody is",
    )
    add(
        "--admin",
        type=address,
        metavar="HOST:PORT",
        help="have all of that there alone, and nothing of it where everybody comes",
    )


def _add_ending(add: Any) -> None:
    # Container runtimes kill after 10 seconds, and the process has to end, too.
    add(
        "--grace",
        rereadable=True,
        type=seconds,
        default=8,
        metavar="S",
        help="seconds a soft close may take",
    )
    add(
        "--spread",
        rereadable=True,
        type=seconds,
        default=0,
        metavar="S",
        help="spread its Closes over so many",
    )


def _add_logs(add: Any) -> None:
    add_log_level(partial(add, rereadable=True), "info")
    add(
        "--log-format",
        default="text",
        choices=["text", "json"],
        help="how: a line of text, or one JSON object a line for programs to read",
    )
