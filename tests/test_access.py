"""One policy for every door of `trioweb serve`: what the rules and the token say is so at each."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, start, upgrade_head
from tests.server.test_events import Source
from tests.support import TEXT, Frame
from trioweb import Retain, Tokens, TopicRules
from trioweb._access import Access, Permit, open_rules
from trioweb._broadcast import Broadcast

SECRET = "0123456789abcdef0123456789abcdef"
KEY = "correct-horse-battery-staple"
TOPICS = {
    "talk": TopicRules(publish=True, history=True),
    "news": TopicRules(),
    "hidden": TopicRules(subscribe=False, publish=True),
    "open": TopicRules(publish=True, anonymous=True),
    "notice": TopicRules(anonymous=True),
}


class House:
    """The server of `trioweb serve`, in memory, with all its doors."""

    def __init__(self, hub: trioweb.Hub, site: Site, access: Access) -> None:
        self.hub = hub
        self.site = site
        self.access = access

    def published(self) -> int:
        return self.hub.statistics().published

    async def member(self, path: str = "/connection/websocket", **headers: Any) -> Member:
        return Member(await self.site.opened(path, **headers))

    async def get(self, path: str, *lines: str, method: str = "GET", body: str = "") -> int:
        length = [f"Content-Length: {len(body)}"] if method == "POST" else []
        head = [f"{method} {path} HTTP/1.1", "Host: server", *lines, *length]
        return (await self.site.ask(("\r\n".join([*head, "", ""]) + body).encode())).status


class Member:
    """A stock client, in JSON by hand."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._ids = itertools.count(1)

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command; return the reply to it, or the Close."""
        id = next(self._ids)
        await self.peer.send(Frame(TEXT, json.dumps({"id": id, **command}).encode()))
        while True:
            frame = await self.peer.frame()
            assert frame is not None
            if frame.opcode != TEXT:
                return {"closed": int.from_bytes(frame.payload[:2], "big")}
            for line in frame.payload.splitlines():
                reply: dict[str, Any] = json.loads(line)
                if reply.get("id") == id:
                    return reply


@asynccontextmanager
async def house(
    topics: dict[str, TopicRules] = TOPICS,
    *,
    secret: str | None = SECRET,
    origins: Collection[str] = (),
    **given: Any,
) -> AsyncGenerator[House]:
    tokens = None if secret is None else Tokens(secret)
    access = Access(topics, tokens=tokens, **given)
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        broadcast = Broadcast(hub, access, history=10, echo=True, origins=origins)
        async with trioweb.open_topic_server(
            hub, topics=topics, tokens=tokens, on_connect=broadcast.welcome
        ) as broadcast.topic_server:
            site = await start(
                nursery, broadcast.handle, admit=broadcast.admit, http=broadcast.http, hub=hub
            )
            broadcast.server = site.server
            yield House(hub, site, access)
            nursery.cancel_scope.cancel()


def signed(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": "ann", **claims}, secret, "HS256")


def token(kind: str, topic: str) -> str:
    match kind:
        case "none":
            return ""
        case "forged":
            return signed("another secret of the same length")
        case "expired":
            return signed(exp=int(time.time()) - 10)
        case "good":
            return signed(exp=int(time.time()) + 1000)
        case "naming":
            return signed(channels=[topic])
    raise AssertionError(kind)


# What each door says, in the same words: "all", "read" (and not publish), or a status.


async def at_websocket(house: House, topic: str, given: dict[str, Any]) -> str:
    peer = await house.site.peer()
    await peer.write(upgrade_head(f"/{topic}", **given))
    status, _ = await peer.read_head()
    if status != 101:
        return str(status)
    await peer.send(Frame(TEXT, b"hello"))
    frame = await peer.frame()
    assert frame is not None
    if frame.opcode == TEXT:
        return "all"
    assert int.from_bytes(frame.payload[:2], "big") == 1008
    return "read"


async def at_events(house: House, topic: str, given: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in given.items()]
    source = await Source(await house.site.peer()).open(f"/{topic}", *lines)
    assert source.headers["content-type"] == (
        "text/event-stream" if source.status == 200 else "text/plain; charset=utf-8"
    )
    await source.close()
    return "read" if source.status == 200 else str(source.status)


async def at_page(house: House, topic: str, given: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in given.items()]
    head = "\r\n".join([f"GET /{topic} HTTP/1.1", "Host: server", *lines, "", ""])
    answer = await house.site.ask(head.encode())
    if answer.status != 200:
        return str(answer.status)
    return "all" if b'<html lang="en" data-echo="yes" data-publish="yes"' in answer.body else "read"


async def at_post(house: House, topic: str, given: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in given.items()]
    status = await house.get(f"/{topic}", *lines, method="POST", body="hello")
    return "all" if status == 200 else str(status)


async def member_says(member: Member, topic: str, **connect: Any) -> str:
    told = await member.ask(connect=connect)
    if told.get("closed") == 3500 or told.get("error", {}).get("code") == 109:
        return "401"
    if told.get("error", {}).get("code") == 102:
        return "404"
    if topic not in told["connect"].get("subs", {}):
        told = await member.ask(subscribe={"channel": topic})
        if "error" in told:
            return {102: "404", 103: "403"}[told["error"]["code"]]
    told = await member.ask(publish={"channel": topic, "data": "hello"})
    return "read" if told.get("error", {}).get("code") == 103 else "all"


async def at_protocol(house: House, topic: str, given: dict[str, Any]) -> str:
    """With the token where stock clients have it."""
    token = given.get("Authorization", "").removeprefix("Bearer ")
    return await member_says(await house.member(), topic, token=token)


async def at_upgrade(house: House, topic: str, given: dict[str, Any]) -> str:
    """With the token in the headers of the upgrade, as a browser's cookie."""
    return await member_says(await house.member(**given), topic)


DOORS = {
    "websocket": at_websocket,
    "events": at_events,
    "page": at_page,
    "post": at_post,
    "protocol": at_protocol,
    "upgrade": at_upgrade,
}
# What a topic's subscriber may do there with a token, and somebody without a valid one.
POLICY = {
    # topic: (without, with a good one, with one that names the topic)
    "talk:x": ("401", "all", "all"),
    "news:x": ("401", "read", "read"),
    "hidden:x": ("401", "403", "all"),
    "open:x": ("all", "all", "all"),
    "notice:x": ("read", "read", "read"),
    "nothing:x": ("401", "404", "404"),
}


def expected(door: str, topic: str, kind: str) -> str:
    without, good, naming = POLICY[topic]
    said = {"good": good, "naming": naming}.get(kind, without)
    match door:
        case "events":
            return "read" if said == "all" else said
        case "post":
            return "403" if said == "read" else said
        case "protocol" if kind in ("forged", "expired"):
            return "401"  # it connects before it names a topic
        case "protocol" | "upgrade" if said == "401":
            # It is connected, since there are topics for everybody.
            return "404" if topic == "nothing:x" else "403"
    return said


@pytest.mark.parametrize("kind", ["none", "forged", "expired", "good", "naming"])
@pytest.mark.parametrize("topic", POLICY)
@pytest.mark.parametrize("door", DOORS)
async def test_rules_and_token_decide_at_every_door(door: str, topic: str, kind: str) -> None:
    async with house() as there:
        given = token(kind, topic)
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        said = await DOORS[door](there, topic, headers)
        assert said == expected(door, topic, kind)
        assert there.published() == (said == "all" and door != "page")


@pytest.mark.parametrize("door", DOORS)
async def test_token_may_come_in_a_cookie_and_not_in_the_query(
    door: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with house() as there:
        good = signed()
        if door != "protocol":
            cookie = {"Cookie": f"a=b; trioweb_token={good}; c=d"}
            assert await DOORS[door](there, "talk:x", cookie) in ("all", "read")
        for query in f"token={good}", f"trioweb_token={good}", f"access_token={good}":
            said = await DOORS[door](there, f"talk:x?{query}", {})
            assert said in ("401", "403"), query


@pytest.mark.parametrize("door", DOORS)
async def test_without_tokens_all_is_open_but_for_posts(door: str) -> None:
    async with house(open_rules(Retain()), secret=None) as there:
        said = await DOORS[door](there, "talk:x", {})
        assert said == {"events": "read", "post": "405"}.get(door, "all")


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_api_key_publishes_where_others_may_not(
    secret: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with house(secret=secret, keys=[KEY.encode()]) as there:
        key = {"Authorization": f"Bearer {KEY}"}
        for topic in "talk:x", "news:x", "hidden:x":
            assert await at_post(there, topic, key) == "all"
        assert await at_post(there, "nothing:x", key) == "404"
        assert await at_post(there, "talk:x", {}) == "401"
        if secret is not None:  # and it is no token
            assert await at_websocket(there, "talk:x", key) == "401"


async def test_form_of_another_site_publishes_nothing_with_our_users_cookies() -> None:
    """CWE-352."""
    async with house() as there:
        cookie = {"Cookie": f"trioweb_token={signed()}"}
        assert await at_post(there, "talk:x", {**cookie, "Origin": "https://evil.example"}) == "403"
        assert await at_post(there, "open:x", {"Origin": "https://evil.example"}) == "403"
        assert there.published() == 0
        assert await at_post(there, "talk:x", {**cookie, "Origin": "http://server"}) == "all"


PREFLIGHT = "Access-Control-Request-Method: POST"
PAGE = "https://shop.example"


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("/talk:x", [f"Origin: {PAGE}", PREFLIGHT], 204),
        ("/talk:x", ["Origin: https://evil.example", PREFLIGHT], 405),
        ("/talk:x", [f"Origin: {PAGE}"], 405),
        ("/talk:x", [PREFLIGHT], 405),
        ("/stats", [f"Origin: {PAGE}", PREFLIGHT], 405),
        ("/connection/websocket", [f"Origin: {PAGE}", PREFLIGHT], 405),
    ],
)
async def test_preflight_is_answered_for_topics_and_listed_pages_alone(
    path: str, lines: list[str], status: int
) -> None:
    async with house(origins=[PAGE]) as there:
        head = [f"OPTIONS {path} HTTP/1.1", "Host: server", *lines, "", ""]
        answer = await there.site.ask("\r\n".join(head).encode())
        assert answer.status == status
        told = {name for name in answer.headers if name.startswith("access-control-")}
        if status != 204:
            assert not told
            return
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in told
        assert answer.headers["vary"] == "Origin"
        assert answer.body == b""


@pytest.mark.parametrize(("given", "status"), [(signed(), 200), ("", 401)])
async def test_page_that_is_listed_may_read_what_came_of_its_post(given: str, status: int) -> None:
    async with house(origins=[PAGE]) as there:
        head = [
            "POST /talk:x HTTP/1.1", "Host: server", f"Origin: {PAGE}", "Content-Length: 2",
            f"Authorization: Bearer {given}", "", "hi",
        ]  # fmt: skip
        answer = await there.site.ask("\r\n".join(head).encode())
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"] == "Origin"


async def test_key_of_a_post_is_its_users() -> None:
    async with house(keys=[KEY.encode()]) as there:
        ann, bob = [f"Authorization: Bearer {signed(sub=user)}" for user in ("ann", "bob")]
        given = "Idempotency-Key: one"
        for authorization in ann, bob, ann, f"Authorization: Bearer {KEY}":
            line = await there.get("/talk:x", authorization, given, method="POST", body="hello")
            assert line == 200
        assert await there.get("/talk:x", ann, given, method="POST", body="other") == 422
        assert await there.get("/talk:x", bob, given, method="POST", body="hello") == 200
        topic = there.hub.topic("talk:x", retain=TOPICS["talk"].retain)
        publishers = [publication.publisher for publication in topic.history()]
        assert publishers == [trioweb.Publisher("ann"), trioweb.Publisher("bob"), None]


async def test_members_are_told_who_has_published_at_the_other_doors() -> None:
    async with house() as there:
        member = await there.member()
        await member.ask(connect={"token": signed(sub="bob")})
        await member.ask(subscribe={"channel": "talk:x"})
        ann = {"Authorization": f"Bearer {signed()}"}
        for door in at_websocket, at_post:
            assert await door(there, "talk:x", ann) == "all"
            frame = await member.peer.frame()
            assert frame is not None
            told = json.loads(frame.payload)["push"]["pub"]
            assert (told["data"], told["info"]["user"]) == ("hello", "ann")


async def test_cookie_of_tokens_has_the_name_that_it_was_given() -> None:
    async with house(cookie="__Host-session") as there:
        good = signed()
        assert await at_page(there, "talk:x", {"Cookie": f"__Host-session={good}"}) == "all"
        assert await at_page(there, "talk:x", {"Cookie": f"trioweb_token={good}"}) == "401"


async def test_numbers_are_for_who_has_a_token_and_health_is_for_all() -> None:
    async with house(keys=[KEY.encode()]) as there:
        assert await there.get("/healthz") == 200
        assert await there.get("/stats") == 401
        assert await there.get("/stats", f"Authorization: Bearer {signed()}") == 200
        assert await there.get("/stats", f"Authorization: Bearer {KEY}") == 200


async def test_token_stands_in_no_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    forged = signed("another secret of the same length")
    async with house() as there:
        for door in DOORS.values():
            await door(there, "talk:x", {"Authorization": f"Bearer {forged}"})
    assert forged not in caplog.text
    assert forged[-20:] not in caplog.text


async def test_refusals_are_paced_and_keep_nobody_else_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house() as there:
        begun = trio.current_time()
        said = [await at_events(there, "talk:x", {}) for _ in range(4)]
        assert said == ["401"] * 4
        assert trio.current_time() - begun == pytest.approx(3)
        assert await at_events(there, "talk:x", {"Authorization": f"Bearer {signed()}"}) == "read"
        assert trio.current_time() - begun == pytest.approx(3)


# Its end.


async def test_end_of_the_token_ends_who_came_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house() as there:
        # Before anybody is pinged.
        cookie = f"trioweb_token={signed(exp=int(time.time()) + 15)}"
        plain = await there.site.opened("/talk:x", Cookie=cookie)
        member = await there.member(Cookie=cookie)
        told = await member.ask(connect={})
        assert "expires" not in told["connect"]
        source = await Source(await there.site.peer()).open("/talk:x", f"Cookie: {cookie}")
        await trio.sleep(13)
        await plain.send(Frame(TEXT, b"still here"))
        assert await plain.frame() == Frame(TEXT, b"still here")
        assert (await source.event() or "")[1] == "still here"
        assert await plain.read_close() == (3005, "connection expired")
        assert await member.peer.read_close() == (3005, "connection expired")
        assert await source.event() is None
        assert 2000 <= source.retry <= 20_000
        assert 13 < trio.current_time() < 15.1


async def test_token_of_a_member_counts_that_is_newer_than_its_cookie() -> None:
    async with house() as there:
        member = await there.member(Cookie=f"trioweb_token={signed(channels=['hidden:x'])}")
        told = await member.ask(connect={"token": signed(channels=["talk:y"])})
        assert list(told["connect"]["subs"]) == ["talk:y"]


async def test_keys_are_replaced_for_all_doors_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house() as there:
        assert there.access.tokens is not None
        there.access.tokens.replace_keys([other := "another secret of the same length"])
        for name, door in DOORS.items():
            bearer = {"Authorization": f"Bearer {signed(other)}"}
            assert await door(there, "talk:x", bearer) in ("all", "read"), name
            bearer = {"Authorization": f"Bearer {signed()}"}
            assert await door(there, "talk:x", bearer) in ("401", "403"), name


# What one gets of the past.


@pytest.mark.parametrize(
    ("rules", "seen"),
    [
        (TopicRules(history=True), ["1", "2", "3"]),
        (TopicRules(), []),
        (TopicRules(recover="latest"), ["3"]),
        (TopicRules(recover=None), []),
    ],
)
async def test_newcomers_get_of_the_past_what_the_rules_say(
    rules: TopicRules, seen: list[str]
) -> None:
    async with house({"": rules}, secret=None) as there:
        topic = there.hub.topic("news")
        for number in "123":
            topic.publish(number)
        plain = await there.site.opened("/news")
        source = await Source(await there.site.peer()).open("/news")
        await trio.testing.wait_all_tasks_blocked()
        topic.publish("now")
        for number in [*seen, "now"]:
            assert await plain.frame() == Frame(TEXT, number.encode())
            event = await source.event()
            assert event is not None
            assert event[:2] == ("message", number)
        await source.close()


@pytest.mark.parametrize(
    ("rules", "events"),
    [
        (TopicRules(), [("message", "2"), ("message", "3")]),
        (TopicRules(recover="latest"), [("gap", '{"skipped": 0}'), ("message", "3")]),
        (TopicRules(recover=None), [("gap", '{"skipped": 0}')]),
        (TopicRules(recover=None, history=True),
         [("gap", '{"skipped": 0}'), ("message", "1"), ("message", "2"), ("message", "3")]),
    ],
)  # fmt: skip
async def test_who_comes_back_gets_what_the_rules_say(
    rules: TopicRules, events: list[tuple[str, str]]
) -> None:
    async with house({"": rules}, secret=None) as there:
        topic = there.hub.topic("news")
        for number in "123":
            topic.publish(number)
        last = f"Last-Event-ID: {topic.epoch}:1"
        source = await Source(await there.site.peer()).open("/news", last)
        topic.publish("now")
        for expected in [*events, ("message", "now")]:
            event = await source.event()
            assert event is not None
            assert event[:2] == expected
        await source.close()


# The protocol's door.


@pytest.mark.parametrize("name", ["centrifuge-json", "centrifuge-protobuf"])
async def test_whoever_offers_the_protocol_gets_it_at_any_path(name: str) -> None:
    async with house(secret=None) as there:
        peer = await there.site.peer()
        headers = await peer.open("/talk:x", Sec_WebSocket_Protocol=f"other, {name}")
        assert headers["sec-websocket-protocol"] == name
        await peer.stream.aclose()


async def test_reserved_paths_are_no_topics() -> None:
    async with house(open_rules(Retain()), secret=None, keys=[KEY.encode()]) as there:
        for path in "/connection/", "/connection/other", "/connection/websocket":
            assert await there.get(path) == 404
            assert await there.get(path, method="POST", body="x") == 405
        assert await at_websocket(there, "connection/sockjs", {}) == "404"
        assert await at_websocket(there, "connections", {}) == "all"


async def test_doors_share_their_topics() -> None:
    async with house(secret=None) as there:
        plain, member = await there.site.opened("/talk:x"), await there.member()
        await member.ask(connect={})
        await member.ask(subscribe={"channel": "talk:x"})
        await plain.send(Frame(TEXT, b"from plain"))
        assert await plain.frame() == Frame(TEXT, b"from plain")
        push = await member.peer.frame()
        assert push is not None
        assert json.loads(push.payload)["push"]["pub"]["data"] == "from plain"
        await member.ask(publish={"channel": "talk:x", "data": {"from": "member"}})
        assert await plain.frame() == Frame(TEXT, b'{"from": "member"}')


async def test_without_msgspec_the_door_of_the_protocol_says_so(nursery: trio.Nursery) -> None:
    async with trioweb.open_hub() as hub:
        broadcast = Broadcast(hub, Access(open_rules(Retain())), history=0, echo=True)
        site = await start(
            nursery, broadcast.handle, admit=broadcast.admit, http=broadcast.http, hub=hub
        )
        for head in (
            upgrade_head("/connection/websocket"),
            upgrade_head("/lobby", Sec_WebSocket_Protocol="centrifuge-json"),
        ):
            answer = await site.ask(head)
            assert answer.status == 501
            assert b"pip install 'trioweb[centrifuge]'" in answer.body
        await (await site.opened("/lobby")).stream.aclose()


def test_latest_message_is_for_newcomers_even_where_others_get_no_history() -> None:
    assert Permit(TopicRules(recover="latest", history=True)).history(0) == 1
    assert Permit(TopicRules(recover="latest", history=True)).history(5) == 5
    assert Permit(TopicRules(history=True)).history(0) == 0
