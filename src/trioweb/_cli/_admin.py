"""The admin of `trioweb serve`: where its page is, and who is let in."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from .._access import Access
from .._broadcast import Broadcast
from .._nursery import protected_block
from .._policy import Limits
from .._server import Server, serve_listeners
from .._topics import Hub
from . import _secrets as secrets
from ._metrics import listen_apart
from ._rereading import Part
from ._sockets import describe
from ._terminal import UsageError
from ._worker import Others, Worker

if TYPE_CHECKING:
    from .._admin import Admin

_logger = logging.getLogger("trioweb")

# Where it is alone: a few people, their terminals, and whoever guesses.
_LIMITS: Final = Limits(max_connections=64)


class Office:
    """An admin, and where it is.

    Args:
        admin: None if nobody has a key.
        listeners: its own; none where it is where everybody comes.

    Attributes:
        server: on these; None without any.
    """

    def __init__(
        self, admin: Admin | None, listeners: Sequence[trio.abc.Listener[Any]] = ()
    ) -> None:
        self._admin = admin
        self._listeners = listeners
        self.server: Server | None = None

    async def start(
        self,
        broadcast: Broadcast,
        nursery: trio.Nursery,
        options: argparse.Namespace,
        context: ssl.SSLContext | None,
    ) -> None:
        """Let admins in, now that there is a server."""
        admin = self._admin
        if admin is None:
            return
        admin.topic_server = broadcast.topic_server
        self.use(broadcast.server, options)
        if not self._listeners:
            broadcast.admin = admin
            return
        serve = partial(
            serve_listeners,
            ssl_context=context,
            admit=admin.admit,
            http=admin.http,
            trusted_proxies=options.trusted_proxy,
            limits=_LIMITS,
        )
        self.server = await nursery.start(serve, admin.handle, self._listeners)
        at, _ = describe(self._listeners[0], options.admin[:1], secure=context is not None)
        _logger.info("admin page at %sadmin", at)

    def join(self, worker: Worker, *, are_all: bool) -> None:
        """Be the admin of all workers, not only of *worker*.

        Args:
            are_all: nobody but these has a part in the topics.
        """
        if self._admin is not None:
            self._admin.join(Others(worker, are_all=are_all))
            worker.end.do = self._admin.perform

    def use(self, server: Server, options: argparse.Namespace) -> None:
        """Go by what *options* say by now."""
        if self._admin is not None:
            self._admin.start(server, grace=options.grace, spread=options.spread)

    def again(self) -> list[Part]:
        """What can be read again."""

        def load(options: argparse.Namespace) -> Callable[[], None]:
            keys = secrets.admin_keys(options)
            if self._admin is None or not keys:
                raise UsageError("whether there is an admin: takes a restart")
            return partial(self._admin.replace_keys, keys)

        return [Part("admin keys", ("admin_key_file",), load)]


@protected_block
async def open_office(
    hub: Hub,
    access: Access,
    keys: Sequence[bytes],
    options: argparse.Namespace,
    metrics_topics: Sequence[str],
) -> AsyncGenerator[Office]:
    """Have an admin for the length of the block, if anybody has one of *keys*.

    Raises:
        UsageError: there cannot be one.
    """
    if not keys:
        if options.admin is not None:
            raise UsageError("--admin needs --admin-key-file or TRIOWEB_ADMIN_KEY")
        yield Office(None)
        return
    try:
        from .._admin import open_admin
        from .._topic_server import open_topic_server as _needed  # noqa: F401 - it needs msgspec
    except ImportError as exc:
        raise UsageError(f"the admin page: {exc}") from None
    # What is picked there is logged, whatever else is.
    logging.getLogger("trioweb.frames").setLevel(logging.DEBUG)
    async with (
        listen_apart("--admin", options.admin) as listeners,
        open_admin(
            hub,
            topics=access.rules_of,
            keys=keys,
            pace=access.pace,
            node=f"{socket.gethostname()} (process {os.getpid()})",
            metrics_topics=metrics_topics,
        ) as admin,
    ):
        yield Office(admin, listeners)
