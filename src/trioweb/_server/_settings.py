"""What a server was asked to be: the arguments of `serve`, checked and as they were then."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from .._arguments import check_async, check_kind, check_texts
from .._connection import Connection
from .._dataclass import dataclass
from .._heartbeat import heartbeat_replies
from .._observer import Observer
from .._offers import check_subprotocols
from .._policy import Deflate, Heartbeat, Limits, check_message
from .._protocol._deflate import check_compression
from .._protocol._replies import Replies, reply_key
from .._topics import Hub
from ._admission import Admit
from ._front import Http
from ._origins import Origins
from ._proxies import Proxies

Handler: TypeAlias = Callable[[Connection], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments of `serve`, as `settle` has checked them."""

    handler: Handler
    ssl_context: ssl.SSLContext | None
    admit: Admit | None
    http: Http | None
    origins: Origins
    subprotocols: tuple[str, ...]
    proxies: Proxies
    heartbeat: Heartbeat | None
    replies: Replies
    limits: Limits
    compression: Deflate | None
    hub: Hub | None
    observer: Observer | None


def settle(
    handler: Handler,
    *,
    ssl_context: ssl.SSLContext | None,
    admit: Admit | None,
    http: Http | None,
    origins: object,
    subprotocols: object,
    trusted_proxies: object,
    heartbeat: Heartbeat | None,
    app_heartbeats: object,
    limits: Limits,
    compression: Deflate | None,
    hub: Hub | None,
    observer: Observer | None,
) -> Settings:
    """Check the arguments of `serve`.

    Raises:
        TypeError, ValueError: one of them cannot work.
    """
    check_async("serve", "handler(connection)", handler)
    check_kind("serve", "ssl_context", ssl_context, ssl.SSLContext, optional=True)
    if ssl_context is not None and ssl_context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "serve: ssl_context must be one for servers, "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), not one for clients"
        )
    check_async("serve", "admit(request)", admit, optional=True)
    check_async("serve", "http(request)", http, optional=True)
    check_kind("serve", "heartbeat", heartbeat, Heartbeat, optional=True)
    check_kind("serve", "limits", limits, Limits)
    check_compression(compression)
    check_kind("serve", "hub", hub, Hub, optional=True)
    check_kind("serve", "observer", observer, Observer, optional=True)
    return Settings(
        handler=handler,
        ssl_context=ssl_context,
        admit=admit,
        http=http,
        origins=Origins(check_texts("serve", "origins", origins)),
        subprotocols=check_subprotocols("serve", subprotocols),
        proxies=Proxies(check_texts("serve", "trusted_proxies", trusted_proxies)),
        heartbeat=heartbeat,
        replies=_replies(heartbeat, app_heartbeats),
        limits=limits,
        compression=compression,
        hub=hub,
        observer=observer,
    )


def _replies(heartbeat: Heartbeat | None, app_heartbeats: object) -> Replies:
    replies = dict(heartbeat_replies(heartbeat))
    check_kind("serve", "app_heartbeats", app_heartbeats, Mapping, optional=True)
    if isinstance(app_heartbeats, Mapping):
        for message, reply in app_heartbeats.items():
            check_message("app_heartbeats", message)
            if reply is not None:
                check_message("app_heartbeats", reply)
            replies[reply_key(message)] = reply
    return replies
