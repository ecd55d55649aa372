"""How a topic client is opened."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from .._arguments import check_async, check_kind
from .._centrifuge._codes import reconnects
from .._centrifuge._values import to_json
from .._chance import new_random
from .._client import Dial, is_worth_retry, open_client
from .._client._opener import DEFAULT_REDIRECTS
from .._client._proxy import ENVIRONMENT
from .._client._supervisor import HeadersArgument, SubprotocolsArgument, UrlArgument
from .._close_codes import CloseCode
from .._errors import ClosedLocally, ConnectionClosed
from .._nursery import open_hidden_nursery, protected_block
from .._observer import Observer
from .._policy import Deflate, Heartbeat, Limits, Retry
from ._calls import ClientCall
from ._client import TopicClient
from ._session import Session
from ._token import Token, TokenArgument


@protected_block
async def open_topic_client(
    url: UrlArgument,
    *,
    token: TokenArgument = None,
    data: Any = None,
    calls: Mapping[str, ClientCall] | None = None,
    retry: Retry = Retry(),
    heartbeat: Heartbeat | None = Heartbeat(),
    headers: HeadersArgument = (),
    subprotocols: SubprotocolsArgument = ("centrifuge-json",),
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits = Limits(),
    compression: Deflate | None = None,
    dial: Dial | None = None,
    redirects: int = DEFAULT_REDIRECTS,
    proxy: str | None = ENVIRONMENT,
    user_agent: str | None = None,
    random: Random | None = None,
    observer: Observer | None = None,
) -> AsyncGenerator[TopicClient]:
    """Hold a client of a topic server that connects, and connects again, for the block's length.

    The server may be `open_topic_server`, or any that speaks the Centrifuge client protocol.  The
    block begins at once; whatever needs a connection waits for it.

    Args:
        url: ws:// or wss://, or an async callable that is asked for it at each attempt.
        token: says who this is; or an async callable that makes one.  It is asked for again when
            the server says that the token has expired, and before that does.
        data: said along with it.
        calls: what the server may call, by name: `async (data) -> data`.  They raise Refuse to say
            no, and are cancelled with the connection.  Only servers of trioweb do so.
        retry: when to connect again.  Without `worth` of its own, a Close decides by its code, as
            the protocol has it, and anything else as `is_worth_retry` does.
        subprotocols: what the client speaks: "centrifuge-json", "centrifuge-protobuf", or () for
            JSON with a server that takes no subprotocol.
        limits: of the connection.  A command that is not answered within `connect_timeout` ends
            it, but for a call, whose deadline is the caller's.
        heartbeat, headers, ssl_context, compression, dial, redirects, proxy, user_agent, random,
            observer: as for `open_client`.

    Yields:
        The TopicClient.  Leaving the block closes the connection.

    Raises:
        ImportError: msgspec is missing: `pip install 'trioweb[centrifuge]'`.
        TypeError, ValueError: an argument cannot work; nothing was begun.
        Refused: the server does not let this client in, and that is final.
        GaveUp: on leaving the block, if the client gave up and no call has said so.
        What the block raises comes out unchanged, and first; then what one of the user's own
        callables raised, unless that is about the network.

    Cancellation: sends Close if the kernel takes it at once, and closes the transport.
    """
    calls = {} if calls is None else dict(calls)
    for name, function in calls.items():
        check_kind("open_topic_client", "each name in calls", name, str)
        check_async("open_topic_client", f"calls[{name!r}](data)", function)
    check_kind("open_topic_client", "retry", retry, Retry)
    check_kind("open_topic_client", "limits", limits, Limits)
    check_kind("open_topic_client", "random", random, Random, optional=True)
    if not isinstance(data, bytes):
        to_json(data)
    if retry.worth is None:
        retry = replace(retry, worth=_is_worth)
    random = random or new_random()
    timeout = limits.connect_timeout
    session = Session(
        token=Token("open_topic_client", token, timeout),
        data=data,
        calls=calls,
        retry=retry,
        random=random,
        timeout=timeout,
    )
    try:
        async with open_client(
            url,
            retry=retry,
            heartbeat=heartbeat,
            on_open=session.greet,
            headers=headers,
            subprotocols=subprotocols,
            ssl_context=ssl_context,
            limits=limits,
            compression=compression,
            dial=dial,
            redirects=redirects,
            proxy=proxy,
            user_agent=user_agent,
            random=random,
            observer=observer,
        ) as client:
            async with open_hidden_nursery() as nursery:
                nursery.start_soon(session.run, client, nursery)
                yield TopicClient(client, session, timeout)
                session.check_told()
    finally:
        session.finish(lambda: ClosedLocally(CloseCode.NORMAL, "the client was closed"))


def _is_worth(error: Exception) -> bool:
    """Whether another attempt makes sense after *error*, as the protocol has it."""
    if not isinstance(error, ConnectionClosed):
        return is_worth_retry(error)
    code = error.code
    is_protocols = code >= 3000 or code == CloseCode.POLICY_VIOLATION
    return reconnects(code) and (is_protocols or is_worth_retry(error))
