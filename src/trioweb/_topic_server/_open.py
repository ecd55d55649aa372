"""How a topic server is opened."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from .._arguments import check_async, check_kind, wrong
from .._nursery import open_hidden_nursery, protected_block
from .._topics import Hub, open_hub
from ._rules import Callback, MemberLimits, Topics, rules_by_name, takes_anonymous
from ._server import Callbacks, TopicServer
from ._tokens import Tokens


@protected_block
async def open_topic_server(
    hub: Hub,
    *,
    topics: Topics,
    on_connect: Callback | None = None,
    on_subscribe: Callback | None = None,
    on_publish: Callback | None = None,
    on_refresh: Callback | None = None,
    on_renew: Callback | None = None,
    on_message: Callback | None = None,
    calls: Mapping[str, Callback] | None = None,
    tokens: Tokens | None = None,
    limits: MemberLimits = MemberLimits(),
    ping: int = 25,
) -> AsyncGenerator[TopicServer]:
    """Serve topics of *hub* to clients of the Centrifuge protocol for the length of the block.

    Stock clients for browsers, phones and programs reconnect, subscribe again and recover what
    they missed by themselves.  Give `handle` and `subprotocols` of the server to `serve`.

    Args:
        topics: what members may do, by what stands before the first colon of a topic's name; ""
            is for names without one, "*" for all others.  Or a function of the whole name, which
            returns None for a topic that there is not.
        on_connect: `async (member, ConnectRequest) -> Welcome | None`: who somebody is.  By
            default, and for None, anybody may come, with `connection.user` as their user.
        on_subscribe: `async (member, SubscribeRequest) -> Granted | None`: what somebody may do
            with a topic.  By default, and for None, what the rules say.
        on_publish: `async (member, topic, data) -> data | None`: checks what a member publishes,
            or returns what is published instead.
        on_refresh: `async (member, token) -> Welcome`: looks at a new token for a connection with
            a `Welcome.ttl`; of what it returns, only the `ttl` counts.
        on_renew: `async (member, topic, token) -> Granted`: likewise for a subscription.
        on_message: `async (member, data)`: takes what a member sends outside of all topics.
            Without it, whoever does so is sent away for good (3508).
        calls: what members can call, by its name: `async (member, data) -> data`.
        tokens: has tokens say who members are, before `on_connect` is asked, and lets them
            subscribe where the rules do not, before `on_subscribe` is asked.  It looks at new ones
            in place of `on_refresh` and `on_renew`, unless these are given.  Who has no token, and
            no `connection.user`, may subscribe to topics with `TopicRules(anonymous=True)` alone,
            and connect if there are any.
        limits: what a member may cost.
        ping: whole seconds between two pings.  25, as the reference server has it.

    `data` is anything that JSON has, or bytes where a client that speaks Protobuf has sent
    something else; None where it has sent nothing.

    A callback raises Refuse to say no, and Dismiss to end the connection.  Any other error is
    logged, and the client told to try again later (100).  What it does ends with the connection.

    Yields:
        The TopicServer.

    Leaving the block closes the connections of all members with 3001, and they come back to
    another server.

    Raises:
        TypeError, ValueError: an argument cannot work.
    """
    owner = "open_topic_server"
    check_kind(owner, "hub", hub, Hub)
    check_kind(owner, "limits", limits, MemberLimits)
    check_kind(owner, "tokens", tokens, Tokens, optional=True)
    check_kind(owner, "ping", ping, int)
    if ping < 1:
        raise ValueError(f"{owner}(ping={ping!r}): must be at least 1 second")
    check_async(owner, "on_connect(member, request)", on_connect, optional=True)
    check_async(owner, "on_subscribe(member, request)", on_subscribe, optional=True)
    check_async(owner, "on_publish(member, topic, data)", on_publish, optional=True)
    check_async(owner, "on_refresh(member, token)", on_refresh, optional=True)
    check_async(owner, "on_renew(member, topic, token)", on_renew, optional=True)
    check_async(owner, "on_message(member, data)", on_message, optional=True)
    if calls is not None and not isinstance(calls, Mapping):
        raise wrong(owner, "calls", "a mapping of names to async functions", calls)
    for name, function in (calls or {}).items():
        check_kind(owner, "each key of calls", name, str)
        check_async(owner, f"calls[{name!r}](member, data)", function)
    callbacks = Callbacks(on_connect, on_subscribe, on_publish, on_refresh, on_renew, on_message)
    # Who comes and goes: a topic each, for which no topic of the program's has to go.
    async with open_hub(max_topics=2**20, linger=0) as changes, open_hidden_nursery() as nursery:
        server = TopicServer(
            hub,
            changes,
            nursery,
            rules=rules_by_name(topics),
            callbacks=callbacks,
            calls=dict(calls or {}),
            tokens=tokens,
            takes_anonymous=takes_anonymous(topics),
            limits=limits,
            ping=ping,
        )
        nursery.start_soon(server._timetable.run)
        try:
            yield server
        finally:
            server._close()
