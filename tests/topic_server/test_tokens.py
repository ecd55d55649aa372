"""What ends unless it is renewed: connections and subscriptions, by callables of the program's."""

from __future__ import annotations

from typing import Any

import trio

from tests.topic_server.support import FORMATS, serving
from trioweb import ConnectRequest, Granted, Member, SubscribeRequest, Welcome
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._replies import Unsubscribe


async def on_connect(member: Member, request: ConnectRequest) -> Welcome:
    return Welcome(ttl=float(request.token) if request.token else None)


async def on_refresh(member: Member, token: str) -> Welcome:
    return Welcome(ttl=float(token) if token != "for ever" else None)


async def on_subscribe(member: Member, request: SubscribeRequest) -> Granted:
    return Granted(ttl=float(request.token) if request.token else None)


async def on_renew(member: Member, topic: str, token: str) -> Granted:
    return Granted(ttl=float(token))


CALLABLES: Any = {
    "on_connect": on_connect,
    "on_refresh": on_refresh,
    "on_subscribe": on_subscribe,
    "on_renew": on_renew,
}


@FORMATS
async def test_a_connection_ends_when_its_token_was_not_refreshed(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(**CALLABLES) as web:
        peer, fresh, for_ever = [await web.connect(format, token="1") for _ in range(3)]
        told = peer.answer(1)
        assert (told.expires, told.ttl) == (True, 1)
        await trio.sleep(20)
        told = await fresh.ask(wire.RefreshRequest(token="10"))
        assert (told.expires, told.ttl, told.client) == (True, 10, fresh.answer(1).client)
        told = await for_ever.ask(wire.RefreshRequest(token="for ever"))
        assert (told.expires, told.ttl) == (False, 0)
        await trio.sleep(5.9)
        assert peer.closed() == (None, "")
        await trio.sleep(0.2)
        assert peer.closed() == (3005, "connection expired")
        await trio.sleep(25)
        assert fresh.closed() == (None, "")
        await trio.sleep(4)
        assert fresh.closed() == (3005, "connection expired")
        assert for_ever.closed() == (None, "")


async def test_tokens_whose_time_has_passed_are_told_so() -> None:
    async with serving(**CALLABLES) as web:
        peer = await web.open()
        assert (await peer.ask(wire.ConnectRequest(token="0"))).code == 109
        assert isinstance(await peer.ask(wire.ConnectRequest(token="5")), wire.ConnectResult)
        assert (await peer.ask(wire.RefreshRequest(token="-1"))).code == 110
        assert (await peer.ask(wire.RefreshRequest())).code == 107
        assert (await peer.subscribe("chat:1", token="0")).code == 109
        assert (await peer.subscribe("chat:1", token="5")).ttl == 5
        renew = wire.SubRefreshRequest(topic="chat:1", token="-1")
        assert (await peer.ask(renew)).code == 110
        assert (await peer.ask(wire.SubRefreshRequest(topic="chat:1"))).code == 107


@FORMATS
async def test_a_subscription_ends_when_it_was_not_renewed(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(**CALLABLES) as web:
        peer = await web.connect(format)
        for topic in ("chat:1", "chat:2"):
            told = await peer.subscribe(topic, token="1")
            assert (told.expires, told.ttl) == (True, 1)
        await trio.sleep(20)
        told = await peer.ask(wire.SubRefreshRequest(topic="chat:2", token="60"))
        assert (told.expires, told.ttl) == (True, 60)
        await trio.sleep(7)
        [push] = peer.pushes
        assert (push.topic, push.unsubscribe) == (
            "chat:1",
            Unsubscribe(2501, "subscription expired"),
        )
        assert peer.closed() == (None, "")
        assert web.server.presence("chat:1") == ()
        # Subscribing again begins anew.
        assert (await peer.subscribe("chat:1", token="100")).ttl == 100
        await trio.sleep(40)
        assert len(peer.pushes) == 1
        # Nor does what was agreed upon before.
        await peer.ask(wire.UnsubscribeRequest(topic="chat:2"))
        assert (await peer.subscribe("chat:2", token="1000")).ttl == 1000
        await trio.sleep(60)
        assert len(peer.pushes) == 1
