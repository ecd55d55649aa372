"""Publishing by POST, and events at every path of `trioweb serve`."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Answer, Site, start
from tests.server.test_events import Source, assert_sent_away
from trioweb._access import Access, open_rules
from trioweb._broadcast import Broadcast
from trioweb._keys import BadKeys, parse_keys
from trioweb.testing import MemoryBroker

KEY = "correct-horse-battery-staple"


class Scene:
    """The server of `trioweb serve`, in memory."""

    def __init__(self, site: Site, hub: trioweb.Hub, access: Access) -> None:
        self.site = site
        self.hub = hub
        self.access = access

    async def post(
        self, body: bytes | str, kind: str | None = "text/plain", *, path: str = "/lobby",
        key: str | None = KEY, **headers: str,
    ) -> Answer:  # fmt: skip
        data = body.encode() if isinstance(body, str) else body
        lines = {"Host": "server", "Content-Length": str(len(data))}
        if kind is not None:
            lines["Content-Type"] = kind
        if key is not None:
            lines["Authorization"] = f"Bearer {key}"
        lines.update({name.replace("_", "-"): value for name, value in headers.items()})
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return await self.site.ask(f"POST {path} HTTP/1.1\r\n{text}\r\n".encode() + data)


async def open_scene(nursery: trio.Nursery, hub: trioweb.Hub, *keys: str) -> Scene:
    access = Access(open_rules(trioweb.Retain()), keys=[key.encode() for key in keys])
    broadcast = Broadcast(hub, access, history=10, echo=True)
    site = await start(
        nursery, broadcast.handle, admit=broadcast.admit, http=broadcast.http, hub=hub
    )
    broadcast.server = site.server
    return Scene(site, hub, access)


@pytest.fixture
async def scene(nursery: trio.Nursery) -> AsyncGenerator[Scene]:
    async with trioweb.open_hub() as hub:
        yield await open_scene(nursery, hub, KEY)


def told(answer: Answer) -> Any:
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


@pytest.mark.parametrize(
    ("kind", "body", "message", "published"),
    [
        ("text/plain", "grüße\n", "grüße\n", "text"),
        ("Text/Plain; charset=utf-8", "hi", "hi", "text"),
        (None, "hi", "hi", "text"),
        ("application/x-www-form-urlencoded", "a=b", "a=b", "text"),
        ("application/json", '{"a": [1, null]}', '{"a": [1, null]}', "json"),
        ("application/geo+json", "[]", "[]", "json"),
        ("application/json", '"text"', "text", "text"),
        ("application/octet-stream", b"\xff\x00", b"\xff\x00", "bytes"),
        ("text/plain", "", "", "text"),
    ],
)
async def test_body_is_published_as_its_content_type_says(
    kind: str | None, body: bytes | str, message: bytes | str, published: str, scene: Scene
) -> None:
    topic = scene.hub.topic("lobby", retain=trioweb.Retain(max_messages=1000))
    with topic.publications() as publications:
        answer = told(await scene.post(body, kind))
        assert answer == {"offset": 1, "epoch": topic.epoch}
        publication = await publications.__anext__()
    assert (publication.message, publication.kind) == (message, published)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"\xff", 400),
        ("application/json", b"\xff", 400),
        ("application/json", "", 400),
        ("application/json", "{", 400),
        ("application/json", "NaN", 400),
        ("application/json", "[" * 100_000, 400),
        ("application/json", "9" * 10_000, 400),
        ("application/json", "1 2", 400),
        ("image/png", b"x", 415),
        ("multipart/form-data; boundary=x", b"x", 415),
        ("application/x-ndjson", "", 400),
        ("application/x-ndjson", "\n", 400),
        ("application/x-ndjson", '{"a": 1}\n{\n{"b": 1}\n', 400),
        ("application/x-ndjson", "1\n" * 10_001, 400),
        ("text/plain", b"x" * (2**20 + 1), 413),
    ],
)
async def test_what_cannot_be_published_is_refused_whole(
    kind: str, body: bytes | str, status: int, scene: Scene
) -> None:
    assert (await scene.post(body, kind)).status == status
    assert scene.hub.statistics().published == 0


async def test_lines_of_json_are_a_message_each(scene: Scene) -> None:
    topic = scene.hub.topic("lobby")
    answer = told(await scene.post('{"n": 1}\r\n"two"\n3', "application/x-ndjson"))
    assert answer == {"offset": 3, "epoch": topic.epoch, "count": 3}
    with topic.publications(history=3) as publications:
        found = [await publications.__anext__() for _ in range(3)]
    assert [(one.message, one.kind) for one in found] == [
        ('{"n": 1}', "json"),
        ("two", "text"),
        ("3", "json"),
    ]


async def test_key_makes_it_once(scene: Scene) -> None:
    first = told(await scene.post("hello", Idempotency_Key="k1"))
    assert told(await scene.post("hello", Idempotency_Key='"k1"')) == first
    assert (await scene.post("other", Idempotency_Key="k1")).status == 422
    assert (
        await scene.post(b"hello", "application/octet-stream", Idempotency_Key="k1")
    ).status == 422
    assert told(await scene.post("other", Idempotency_Key="k2"))["offset"] == 2
    assert scene.hub.statistics().published == 2
    for key in '""', "x" * 241:
        assert (await scene.post("hello", Idempotency_Key=key)).status == 400


async def test_lines_that_were_published_in_part_are_completed(scene: Scene) -> None:
    """Line n has the key KEY:n; and one that differs stops all before anything is published."""
    topic = scene.hub.topic("lobby")
    topic.publish("1", key="k:1", kind="json")
    kind = "application/x-ndjson"
    assert (await scene.post("2\n2\n3", kind, Idempotency_Key="k")).status == 422
    assert topic.head == 1
    assert told(await scene.post("1\n2\n3", kind, Idempotency_Key="k"))["offset"] == 3
    assert told(await scene.post("1\n2\n3", kind, Idempotency_Key="k"))["offset"] == 3
    assert topic.head == 3


async def test_hub_without_room_is_503(nursery: trio.Nursery) -> None:
    async with trioweb.open_hub(max_topics=1) as hub:
        scene = await open_scene(nursery, hub, KEY)
        with hub.topic("taken").publications():
            answer = await scene.post("hello")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


async def test_broker_that_refuses_or_has_no_room_is_503(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    outbox = trioweb.Outbox(max_messages=1, full="raise")
    broker = MemoryBroker(policy=trioweb.BrokerPolicy(outbox=outbox, flush_timeout=0.1))
    async with trioweb.open_hub(broker=broker) as hub:
        scene = await open_scene(nursery, hub, KEY)
        broker.refuse("out of memory")
        refused = await scene.post("hello")
        broker.shut_down()
        hub.topic("other").post("waits")
        full = await scene.post("hello")
    assert [answer.status for answer in (refused, full)] == [503, 503]
    assert refused.headers["retry-after"] == full.headers["retry-after"] == "5"


async def test_broker_that_does_not_answer_keeps_nobody_waiting(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6; what was posted is published once, however often it is sent again."""
    broker = MemoryBroker()
    async with trioweb.open_hub(broker=broker) as hub:
        scene = await open_scene(nursery, hub, KEY)
        broker.stop()
        begun = trio.current_time()
        answer = await scene.post("hello", Idempotency_Key="k")
        assert trio.current_time() - begun == pytest.approx(20, abs=0.1)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        await assert_sent_away(await Source(await scene.site.peer()).open("/other"))
        broker.resume()
        assert told(await scene.post("hello", Idempotency_Key="k"))["offset"] == 1


@pytest.mark.parametrize("path", ["/healthz", "/stats", "/metrics"])
async def test_reserved_paths_are_no_topics(path: str, scene: Scene) -> None:
    assert (await scene.post("hello", path=path)).status == 405
    events = await Source(await scene.site.peer()).open(path)
    assert events.headers["content-type"] != "text/event-stream"
    assert scene.hub.statistics().topics == 0
    await events.close()


async def test_name_of_a_topic_has_its_limit_at_every_door(scene: Scene) -> None:
    assert (await scene.post("hello", path="/" + "x" * 256)).status == 414
    events = await Source(await scene.site.peer()).open("/" + "x" * 256)
    assert events.status == 414
    await events.close()


async def test_what_is_posted_reaches_those_who_read_events_with_what_was_before(
    scene: Scene,
) -> None:
    await scene.post("before")
    events = await Source(await scene.site.peer()).open("/lobby")
    assert (await events.event() or "")[1] == "before"
    await scene.post('{"a": 1}', "application/json")
    assert (await events.event() or "")[1] == '{"a": 1}'
    await events.close()


# Who may.


async def test_nobody_publishes_by_post_where_there_is_no_key(nursery: trio.Nursery) -> None:
    async with trioweb.open_hub() as hub:
        scene = await open_scene(nursery, hub)
        assert (await scene.post("hello")).status == 405
        assert hub.statistics().published == 0


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY,
     "Bearer \xff", f"Bearer {KEY}, Bearer {KEY}"],
)  # fmt: skip
async def test_without_a_key_it_is_401_and_nothing_is_published_nor_logged(
    given: str | None, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {} if given is None else {"Authorization": given}
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /lobby HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\n{text}\r\nhello"
    answer = await scene.site.ask(head.encode("latin-1"))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert scene.hub.statistics().topics == 0
    assert scene.site.server.statistics().refused == {401: 1}
    assert KEY[:-1] not in caplog.text


async def test_each_of_the_keys_counts_until_it_is_replaced(scene: Scene) -> None:
    scene.access.keys = parse_keys(f"{KEY}\n\n another-key-of-16 \n", "x")
    for key in KEY, "another-key-of-16":
        assert (await scene.post("hello", key=key)).status == 200
    scene.access.keys = parse_keys("another-key-of-16", "x")
    assert (await scene.post("hello")).status == 401


async def test_guesses_are_answered_once_a_second_and_keep_nobody_else_out(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-307."""
    begun = trio.current_time()
    statuses: list[int] = []
    ends: list[float] = []

    async def guess(number: int) -> None:
        statuses.append((await scene.post("hello", key=f"guess-number-{number:05}")).status)
        ends.append(trio.current_time() - begun)

    async with trio.open_nursery() as guessing:
        for number in range(30):
            guessing.start_soon(guess, number)
        await trio.sleep(3)
        at = trio.current_time()
        assert (await scene.post("hello")).status == 200
        assert trio.current_time() == at
    assert sorted(statuses) == [401] * 11 + [429] * 19
    assert max(ends) == pytest.approx(10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no key"),
        ("\n \n", "no key"),
        ("short-key-of-15", "line 1: a key has at least 16"),
        (f"{KEY}\n\nshort", "line 3: a key has"),
        ("a key with blanks in it", "printable ASCII"),
        ("ein-schlüssel-mit-umlaut", "printable ASCII"),
    ],
)
def test_keys_that_could_be_guessed_or_not_be_sent_are_an_error(text: str, reason: str) -> None:
    with pytest.raises(BadKeys, match=reason) as caught:
        parse_keys(text, "keys")
    for word in "short-key", "blanks in", "schlüssel", KEY:
        assert word not in str(caught.value)
