"""Server-Sent Events: topics over plain HTTP, resumed by whoever lost the stream."""

from __future__ import annotations

import json
import logging
import re
from base64 import b64decode
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, Site, start, upgrade_head, wait
from tests.support import tls_contexts
from trioweb.testing import Network

# What a browser's EventSource makes of a stream: (event, data, id at that time).
Event = tuple[str, str, str]


class Source:
    """A stock EventSource, by the standard's words, over a raw peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.last_id = ""
        self.retry = 0
        self.comments = 0
        self.headers = trioweb.Headers()
        self.status = 0

    async def open(self, path: str = "/", *lines: str, version: str = "1.1") -> Source:
        head = [f"GET {path} HTTP/{version}", "Host: server", "Accept: text/event-stream", *lines]
        await self.peer.write("\r\n".join([*head, "", ""]).encode())
        self.status, self.headers = await self.peer.read_head()
        self.is_chunked = "transfer-encoding" in self.headers
        self.text = ""
        return self

    async def _more(self) -> bool:
        """Read on; return whether there was anything."""
        if self.is_chunked:
            size = int(await self.peer._read_line(), 16)
            self.text += (await self.peer.read(size)).decode()
            assert await self.peer.read(2) == b"\r\n"
            return bool(size)
        data = self.peer.unparsed or await self.peer.stream.receive_some()
        self.peer.unparsed = b""
        self.text += data.decode()
        return bool(data)

    async def event(self) -> Event | None:
        """The next event that would be dispatched; None at the end."""
        while True:
            while "\n\n" in self.text:
                block, _, self.text = self.text.partition("\n\n")
                name, data = "message", None
                for line in block.split("\n"):
                    field, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    match field:
                        case "":
                            self.comments += 1
                        case "id":
                            self.last_id = value
                        case "event":
                            name = value
                        case "data":
                            data = value if data is None else f"{data}\n{value}"
                        case "retry":
                            self.retry = int(value)
                        case _:
                            raise AssertionError(line)
                if data is not None:
                    return name, data, self.last_id
            if not await self._more():
                return None

    async def close(self) -> None:
        await self.peer.stream.aclose()


@pytest.fixture
async def hub() -> AsyncGenerator[trioweb.Hub]:
    async with trioweb.open_hub() as hub:
        yield hub


def streaming(hub: trioweb.Hub, **options: Any) -> Any:
    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.event_stream(request, hub.topic(request.path), **options)

    return http


async def open_site(nursery: trio.Nursery, hub: trioweb.Hub, **options: Any) -> Site:
    return await start(nursery, wait, **{"http": streaming(hub), "hub": hub, **options})


async def source(site: Site, *lines: str, path: str = "/", version: str = "1.1") -> Source:
    return await Source(await site.peer()).open(path, *lines, version=version)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_topic_is_a_stream_of_events(
    version: str,
    nursery: trio.Nursery,
    hub: trioweb.Hub,
    autojump_clock: trio.testing.MockClock,
) -> None:
    topic = hub.topic("/")
    topic.publish("before")
    site = await open_site(nursery, hub)
    events = await source(site, version=version)
    assert events.status == 200
    assert events.headers["content-type"] == "text/event-stream"
    assert events.headers["cache-control"] == "no-store"
    assert events.headers["x-accel-buffering"] == "no"
    assert events.headers["vary"] == "Origin"
    assert events.headers.get("transfer-encoding") == ("chunked" if version == "1.1" else None)
    await trio.testing.wait_all_tasks_blocked()
    assert topic.subscribers == 1
    for text in "grüße", "", "two\nlines", "a\rb\r\nc\n", "event: x", ":comment":
        offset = topic.publish(text)
        expected = re.sub(r"\r\n?", "\n", text)
        assert await events.event() == ("message", expected, f"{topic.epoch}:{offset}")
    assert 1000 <= events.retry <= 5000
    await events.close()
    await trio.sleep(1.1)
    assert topic.subscribers == 0
    assert site.streams == 0


async def test_bytes_are_events_of_their_own_in_base64(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    events = await source(await open_site(nursery, hub))
    data = bytes(range(256)) * 10
    hub.topic("/").publish(data)
    event = await events.event()
    assert event is not None
    assert (event[0], b64decode(event[1])) == ("binary", data)


async def test_json_stands_as_it_is_and_a_string_as_its_text(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    events = await source(await open_site(nursery, hub))
    hub.topic("/").publish('{"a": 1}', kind="json")
    hub.topic("/").publish('"text"', kind="json")
    found = [await events.event() for _ in range(2)]
    assert [event[1] for event in found if event is not None] == ['{"a": 1}', "text"]


async def test_encode_makes_what_is_sent_once_for_all_streams(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    calls = 0

    def encode(publication: trioweb.Publication) -> str:
        nonlocal calls
        calls += 1
        return f"<{publication.message!s}>"

    site = await open_site(nursery, hub, http=streaming(hub, encode=encode))
    sources = [await source(site) for _ in range(5)]
    hub.topic("/").publish("hello")
    for events in sources:
        event = await events.event()
        assert event is not None
        assert event[1] == "<hello>"
    assert calls == 1


@pytest.mark.parametrize("way", ["header", "query", "both"])
async def test_stream_is_resumed_where_it_was_lost(
    way: str, nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    topic = hub.topic("/")
    site = await open_site(nursery, hub)
    first = await source(site)
    topic.publish("1")
    await first.event()
    await first.close()
    for text in "2", "3":
        topic.publish(text)
    lines = [] if way == "query" else [f"Last-Event-ID: {first.last_id}"]
    # The header is newer than the page's URL.
    asked = {"header": "/", "query": f"/?last_event_id={first.last_id}",
             "both": f"/?last_event_id={topic.epoch}:0"}[way]  # fmt: skip
    second = await source(site, *lines, path=asked)
    assert [await second.event() for _ in range(2)] == [
        ("message", text, f"{topic.epoch}:{text}") for text in ("2", "3")
    ]


async def test_stream_in_which_nothing_came_is_resumed_too(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    """By the block with an id alone."""
    topic = hub.topic("/")
    topic.publish("before")
    site = await open_site(nursery, hub)
    first = await source(site)
    with trio.move_on_after(0.01):
        await first.event()
    assert first.last_id == f"{topic.epoch}:1"
    await first.close()
    topic.publish("missed")
    second = await source(site, f"Last-Event-ID: {first.last_id}")
    assert await second.event() == ("message", "missed", f"{topic.epoch}:2")


@pytest.mark.parametrize(
    "given", ["other:1", "{epoch}:99", "{epoch}:1", "nonsense", "{epoch}:-1", "{epoch}:1:1", ":1"]
)
async def test_gap_is_an_event_of_its_own(
    given: str, nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    """Invariant 15: and what is retained follows."""
    topic = hub.topic("/", retain=trioweb.Retain(max_messages=2))
    for text in "1", "2", "3", "4", "5":
        topic.publish(text)
    site = await open_site(nursery, hub)
    events = await source(site, f"Last-Event-ID: {given.format(epoch=topic.epoch)}")
    event = await events.event()
    assert event is not None
    assert (event[0], event[2]) == ("gap", f"{topic.epoch}:3")
    assert json.loads(event[1]) == {"skipped": 2 if given == "{epoch}:1" else 3}
    assert await events.event() == ("message", "4", f"{topic.epoch}:4")


async def test_history_is_for_those_who_come_for_the_first_time(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    topic = hub.topic("/")
    for text in "1", "2", "3":
        topic.publish(text)
    site = await open_site(nursery, hub, http=streaming(hub, history=2))
    events = await source(site)
    assert [(await events.event() or "")[1] for _ in range(2)] == ["2", "3"]
    again = await source(site, f"Last-Event-ID: {topic.epoch}:2")
    assert (await again.event() or "")[1] == "3"


async def test_publications_for_others_are_skipped_by_the_key_of_the_peer(
    nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    site = await open_site(nursery, hub, http=streaming(hub, peer="ada"))
    events = await source(site)
    await trio.testing.wait_all_tasks_blocked()
    hub.topic("/").publish("not for her", skip="ada")
    hub.topic("/").publish("for her")
    assert (await events.event() or "")[1] == "for her"


# Slow and silent peers.


async def test_silent_stream_is_kept_alive_by_comments(
    nursery: trio.Nursery, hub: trioweb.Hub, autojump_clock: trio.testing.MockClock
) -> None:
    site = await open_site(nursery, hub, heartbeat=trioweb.Heartbeat(interval=10))
    events = await source(site)
    with trio.move_on_after(35):
        await events.event()
    assert events.comments == 3


async def test_slow_stream_is_evicted_and_told_what_it_missed_when_it_comes_back(
    nursery: trio.Nursery, hub: trioweb.Hub, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 3 and 4."""
    topic = hub.topic("/", retain=trioweb.Retain(max_messages=5))
    site = await open_site(nursery, hub, network=Network(max_bytes=4000))
    slow, quick = await source(site), await source(site)
    received = []
    for number in range(100):
        topic.publish(f"{number} {'x' * 10_000}")
        received.append(await quick.event())
        await trio.sleep(0.15)  # 15 s, within the write timeout
    assert None not in received
    assert hub.statistics().evicted == 1
    assert topic.subscribers == 1
    with pytest.raises((AssertionError, ValueError)):  # it ends in the middle of an event
        while await slow.event() is not None:
            pass
    again = await source(site, f"Last-Event-ID: {slow.last_id}")
    event = await again.event()
    assert event is not None
    assert event[0] == "gap"
    assert json.loads(event[1])["skipped"] > 50


async def test_slow_stream_that_skips_is_told_each_gap_in_its_place(
    nursery: trio.Nursery, hub: trioweb.Hub, autojump_clock: trio.testing.MockClock
) -> None:
    topic = hub.topic("/", retain=trioweb.Retain(max_messages=5), slow="skip")
    site = await open_site(nursery, hub, network=Network(max_bytes=4000))
    slow = await source(site)
    for number in range(100):
        topic.publish(f"{number} {'x' * 10_000}")
        await trio.sleep(0.15)  # 15 s, within the write timeout
    offset = skipped = gaps = 0
    while offset < 100:
        event = await slow.event()
        assert event is not None
        at = int(event[2].partition(":")[2])
        if event[0] == "gap":
            # What was passed over in all is what the offsets say.
            skipped = json.loads(event[1])["skipped"]
            offset = at
            gaps += 1
        else:
            assert at == offset + 1
            offset = at
    assert skipped > 50
    assert hub.statistics().skipped == skipped
    # It was passed over dozens of times while it read nothing, and is told once: invariant 8.
    assert gaps <= 2


async def test_peer_that_takes_nothing_is_given_up_after_the_write_timeout(
    nursery: trio.Nursery, hub: trioweb.Hub, autojump_clock: trio.testing.MockClock
) -> None:
    limits = trioweb.Limits(write_timeout=7)
    site = await open_site(nursery, hub, network=Network(max_bytes=4000), limits=limits)
    peer = await site.peer()
    await peer.write(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    hub.topic("/").publish("x" * 20_000)
    await trio.sleep(6.9)
    assert hub.topic("/").subscribers == 1
    await trio.sleep(2)
    assert hub.topic("/").subscribers == 0
    assert site.streams == 1
    await peer.stream.aclose()


@pytest.mark.network
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_stream_over_a_socket_ends_with_its_peer(
    tls: bool, nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    client_context, server_context = tls_contexts()
    options: dict[str, Any] = {"ssl_context": server_context} if tls else {}
    serve = partial(
        trioweb.serve, wait, 0, host="127.0.0.1", http=streaming(hub), hub=hub, **options
    )
    server: trioweb.Server = await nursery.start(serve)
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if tls:
        stream = trio.SSLStream(
            stream, client_context, server_hostname="localhost", https_compatible=True
        )
    events = await Source(Peer(stream)).open()
    topic = hub.topic("/")
    for number in range(50):
        topic.publish(f"{number}" * 10_000)
    for number in range(50):
        assert await events.event() == (
            "message",
            f"{number}" * 10_000,
            f"{topic.epoch}:{number + 1}",
        )
    await trio.aclose_forcefully(stream)
    while topic.subscribers:
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_peer_that_leaves_its_stream_is_no_news(
    nursery: trio.Nursery,
    hub: trioweb.Hub,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trioweb")
    site = await open_site(nursery, hub)
    events = await source(site)
    await events.close()
    await trio.sleep(1.1)
    assert hub.topic("/").subscribers == 0
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().endswith("was cut off: the peer has gone")


async def test_encoding_that_fails_ends_its_streams_alone(
    nursery: trio.Nursery, hub: trioweb.Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 2."""

    def encode(publication: trioweb.Publication) -> str:
        raise ZeroDivisionError

    async def http(request: trioweb.Request) -> trioweb.Response:
        bad = encode if request.query else None
        return trioweb.event_stream(request, hub.topic(request.path), encode=bad)

    site = await open_site(nursery, hub, http=http)
    bad, good = await source(site, path="/?bad"), await source(site)
    await trio.testing.wait_all_tasks_blocked()
    hub.topic("/").publish("hello")
    assert (await good.event() or "")[1] == "hello"
    await bad.peer.read_end()
    assert b"hello" not in bad.peer.unparsed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# Those who are sent away.


async def assert_sent_away(events: Source) -> None:
    """It comes back: from status 200 and the end alone."""
    assert events.status == 200
    assert events.headers["content-type"] == "text/event-stream"
    text = (await events.peer.read(int(events.headers["content-length"]))).decode()
    assert re.fullmatch(r"retry: (\d+)\n\n", text)
    assert 2000 <= int(text[7:-2]) <= 20_000
    await events.close()


async def test_at_capacity_who_wants_events_is_told_to_come_back(nursery: trio.Nursery) -> None:
    async with trioweb.open_hub() as hub:
        site = await open_site(nursery, hub, limits=trioweb.Limits(max_connections=1))
        await site.opened()
        await assert_sent_away(await source(site))
        assert (await site.ask(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")).status == 503


async def test_beyond_the_limit_of_its_host_who_wants_events_is_told_to_come_back(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with trioweb.open_hub() as hub:
        limits = trioweb.Limits(max_connections_per_host=2)
        site = await open_site(nursery, hub, limits=limits)
        first, second = await site.opened(), await source(site)
        await assert_sent_away(await source(site))
        plain = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"
        answer = await site.ask(plain)
        assert answer.status == 503
        assert b"from this address" in answer.body
        assert (await site.ask(upgrade_head())).status == 503
        # Who is silent there takes none of what the host may have.
        silent = [await site.peer() for _ in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        await first.stream.aclose()
        await second.close()
        await trio.sleep(2)
        again = [await source(site), await source(site)]
        assert [events.headers.get("content-length") for events in again] == [None, None]
        await assert_sent_away(await source(site))
        for peer in silent:
            await peer.stream.aclose()


@pytest.mark.parametrize("where", ["hub.topic", "subscribe"])
async def test_where_no_topic_has_room_who_wants_events_is_told_to_come_back(
    where: str, nursery: trio.Nursery
) -> None:
    async with trioweb.open_hub(max_topics=1) as hub:
        spare = hub.topic("/")
        if where == "subscribe":

            async def http(request: trioweb.Request) -> trioweb.Response:
                return trioweb.event_stream(request, spare)
        else:
            http = streaming(hub)
        site = await start(nursery, wait, http=http, hub=hub)
        with hub.topic("taken").publications():
            await assert_sent_away(await source(site, path="/other"))
        assert site.server.statistics().handler_errors == 0


async def test_drain_ends_streams_that_have_caught_up_and_tells_them_when_to_come_back(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with trioweb.open_hub() as hub:
        site = await open_site(nursery, hub, network=Network(max_bytes=8000))
        quick, slow = await source(site), await source(site)
        await trio.testing.wait_all_tasks_blocked()
        topic = hub.topic("/")
        for number in range(20):
            topic.publish(f"{number} {'x' * 1000}")
        begun = trio.current_time()
        async with trio.open_nursery() as draining:
            draining.start_soon(site.server.drain)
            count = 0
            while await quick.event() is not None:
                count += 1
            assert count == 20
            assert 2000 <= quick.retry <= 20_000
            await assert_sent_away(await source(site))
            await trio.sleep(3)
            count = 0
            while await slow.event() is not None:
                count += 1
            assert count == 20
        assert trio.current_time() - begun < 6


async def test_cancelled_server_ends_streams(nursery: trio.Nursery, hub: trioweb.Hub) -> None:
    async with trio.open_nursery() as serving:
        site = await open_site(serving, hub)
        events = await source(site)
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    await events.peer.read_end()
    assert hub.topic("/").subscribers == 0


# Pages of other sites.


@pytest.mark.parametrize(
    ("origin", "status", "allowed"),
    [
        (None, 200, None),
        ("http://server", 200, "http://server"),
        ("https://listed.example", 200, "https://listed.example"),
        ("https://evil.example", 403, None),
        ("null", 403, None),
    ],
)
async def test_origin_decides_as_for_a_websocket(
    origin: str | None, status: int, allowed: str | None, nursery: trio.Nursery, hub: trioweb.Hub
) -> None:
    """CWE-1385."""
    site = await open_site(nursery, hub, origins=["https://listed.example"])
    events = await source(site, *([] if origin is None else [f"Origin: {origin}"]))
    assert events.status == status
    assert events.headers.get("access-control-allow-origin") == allowed
    await events.close()
    peer = await site.peer()
    await peer.write(upgrade_head(Origin=origin))
    assert (await peer.read_head())[0] == (101 if status == 200 else 403)


async def test_head_of_a_stream_can_be_asked_for(nursery: trio.Nursery, hub: trioweb.Hub) -> None:
    site = await open_site(nursery, hub)
    answer = await site.ask(b"HEAD / HTTP/1.1\r\nHost: server\r\n\r\n")
    assert answer.headers["content-type"] == "text/event-stream"
    assert hub.topic("/").subscribers == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"retry": -1}, ValueError, "retry=-1 must be seconds"),
        ({"retry": "3"}, TypeError, "retry must be"),
        ({"history": -1}, ValueError, "must not be negative"),
        ({"resume": None}, TypeError, "resume"),
        ({"lifetime": -1}, ValueError, "lifetime=-1 must not be negative"),
        ({"lifetime": float("nan")}, ValueError, "lifetime=nan must not be negative"),
        ({"lifetime": "5"}, TypeError, "lifetime"),
        ({"encode": 5}, TypeError, "encode must be a function"),
        ({"topic": "name"}, TypeError, "topic must be"),
        ({"peer": 5}, TypeError, "peer must be"),
    ],
)
async def test_event_stream_tells_a_wrong_argument(
    options: dict[str, Any], error: type[Exception], text: str, hub: trioweb.Hub
) -> None:
    arguments: dict[str, Any] = {"topic": hub.topic("a"), **options}
    with pytest.raises(error, match=text):
        trioweb.event_stream(trioweb.Request("GET", "/"), **arguments)
