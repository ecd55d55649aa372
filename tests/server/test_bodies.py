"""Bodies, both ways: what a request brings, and what a response makes while it is written."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioweb
from tests.server.support import Peer, start, upgrade_head, wait
from trioweb.testing import Network


def post(body: bytes = b"", *, path: str = "/", **headers: str | None) -> bytes:
    """A POST with *body*; *headers* besides, or in place of Content-Length."""
    lines = {"Host": "server", "Content-Length": str(len(body))}
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})  # type: ignore[misc]
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode() + body


def chunked(*chunks: bytes, path: str = "/") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return post(body, path=path, Content_Length=None, Transfer_Encoding="chunked")


async def mirror(request: trioweb.Request) -> trioweb.Response:
    return trioweb.Response(200, await request.body())


# Of requests.


@pytest.mark.parametrize("segment", [None, 1])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (post(b"hello"), b"hello"),
        (post(b"x" * 200_000), b"x" * 200_000),
        (post(), b""),
        (post(Content_Length=None), b""),
        (chunked(b"hel", b"lo"), b"hello"),
        (chunked(*[b"x"] * 1000), b"x" * 1000),
        (post(b"hello").replace(b"HTTP/1.1", b"HTTP/1.0"), b"hello"),
        (post(b"hello").replace(b"POST", b"GET"), b"hello"),
    ],
    ids=["length", "large", "0", "none", "chunks", "many chunks", "HTTP/1.0", "GET"],
)
async def test_body_is_read_whole_when_it_is_asked_for(
    head: bytes, body: bytes, segment: int | None, nursery: trio.Nursery
) -> None:
    if segment and len(head) > 100_000:
        head, body = post(b"x" * 20_000), b"x" * 20_000
    site = await start(nursery, wait, http=mirror, network=Network(segment=segment))
    answer = await site.ask(head)
    assert (answer.status, answer.body) == (200, body)


async def test_body_is_read_once_and_told_as_often_as_it_is_asked_for(
    nursery: trio.Nursery,
) -> None:
    kept: list[trioweb.Request] = []

    async def http(request: trioweb.Request) -> trioweb.Response:
        kept.append(request)
        assert await request.body(5) == await request.body() == b"hello"
        with pytest.raises(trioweb.Reject) as caught:
            await request.body(4)
        assert caught.value.status == 413
        return trioweb.Response(204)

    site = await start(nursery, wait, http=http)
    assert (await site.ask(post(b"hello"))).status == 204
    with pytest.raises(RuntimeError, match="answered already"):
        await kept[0].body()


async def test_request_without_a_stream_has_no_body() -> None:
    assert await trioweb.Request("POST", "/").body() == b""


@pytest.mark.parametrize(
    ("head", "limit"),
    [
        (post(b"hello"), 4),
        (post(Content_Length=str(10**15)), None),
        (chunked(b"hel", b"lo"), 4),
        (post(b"ffffffffff\r\n", Content_Length=None, Transfer_Encoding="chunked"), None),
        (post(b"x" * 2000), None),
        (chunked(b"x" * 1500), 10**9),
    ],
)
async def test_body_beyond_the_limit_is_413_as_soon_as_its_size_is_known(
    head: bytes, limit: int | None, nursery: trio.Nursery
) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        await request.body(limit)
        raise AssertionError("read")

    site = await start(nursery, wait, http=http, limits=trioweb.Limits(max_message_bytes=1000))
    assert (await site.ask(head)).status == 413
    assert site.server.statistics().refused == {413: 1}


async def test_cancelled_reading_of_a_body_goes_on_where_it_was(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        tries = 0
        while True:
            tries += 1
            with trio.move_on_after(0.5):
                return trioweb.Response(200, await request.body() + b"%d" % tries)

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    data = post(b"abcdef")
    await peer.write(data[:-6])
    for byte in data[-6:]:
        await trio.sleep(0.3)
        await peer.write(bytes([byte]))
    assert (await peer.read_answer()).body == b"abcdef4"


async def test_peer_that_waits_for_100_gets_it_when_the_body_is_asked_for(
    nursery: trio.Nursery,
) -> None:
    """RFC 9110 section 10.1.1."""
    asked = trio.Event()

    async def http(request: trioweb.Request) -> trioweb.Response:
        await asked.wait()
        return trioweb.Response(200, await request.body())

    site = await start(nursery, wait, http=http)
    peer = await site.peer()
    await peer.write(post(b"hello", Expect="100-Continue")[:-5])
    await trio.testing.wait_all_tasks_blocked()
    asked.set()
    status, headers = await peer.read_head()
    assert (status, len(headers)) == (100, 0)
    await peer.write(b"hello")
    answer = await peer.read_answer()
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize(
    "head",
    [post(b"hello", Expect="100-continue"), post(b"hello", Expect="x").replace(b"/1.1", b"/1.0")],
    ids=["came", "HTTP/1.0"],
)
async def test_peer_that_did_not_wait_gets_no_100(head: bytes, nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=mirror)
    assert (await site.ask(head)).status == 200


async def test_nobody_is_asked_for_a_body_that_is_refused(nursery: trio.Nursery) -> None:
    async def http(request: trioweb.Request) -> trioweb.Response:
        raise trioweb.Reject(401, "who are you?\n")

    site = await start(nursery, wait, http=http)
    for head in (
        post(Content_Length="5", Expect="100-continue"),
        post(Content_Length=str(10**9), Expect="100-continue"),
    ):
        assert (await site.ask(head)).status == 401


async def test_any_expectation_but_100_is_417(nursery: trio.Nursery) -> None:
    site = await start(nursery, wait, http=mirror)
    assert (await site.ask(post(b"hello", Expect="a miracle"))).status == 417


@pytest.mark.parametrize("target", ["*", "http://server"])
async def test_options_may_be_about_the_server_as_a_whole(
    target: str, nursery: trio.Nursery
) -> None:
    """RFC 9112 section 3.2.4."""

    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(204, headers={"X-Path": request.path})

    site = await start(nursery, wait, http=http)
    answer = await site.ask(f"OPTIONS {target} HTTP/1.1\r\nHost: server\r\n\r\n".encode())
    assert (answer.status, answer.headers["x-path"]) == (204, "*")


# A peer that goes.


@pytest.mark.parametrize("place", ["memory", pytest.param("tcp", marks=pytest.mark.network)])
@pytest.mark.parametrize("asks", [b"", b"hello"], ids=["no body", "a body"])
@pytest.mark.parametrize("where", ["http", "body"])
async def test_http_is_cancelled_when_its_peer_goes(
    where: str, asks: bytes, place: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioweb")
    begun, ended = trio.Event(), trio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            yield b"x"
            begun.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async def http(request: trioweb.Request) -> trioweb.Response:
        assert await request.body() == asks
        if where == "body":
            return trioweb.Response(200, endless())
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    if place == "memory":
        site = await start(nursery, wait, http=http)
        server, peer = site.server, await site.peer()
    else:
        serve = partial(trioweb.serve, wait, 0, host="127.0.0.1", http=http)
        server = await nursery.start(serve)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", server.port))
    await peer.write(post(asks))
    await begun.wait()
    await peer.stream.aclose()
    await ended.wait()
    while server.statistics().opening:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.statistics().handler_errors == 0
    assert [record.levelno for record in caplog.records] == [logging.INFO]


async def test_peer_that_has_only_ended_its_sending_is_given_a_second(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """`printf … | nc -N` does; but so looks a peer that has closed, to the kernel."""

    async def http(request: trioweb.Request) -> trioweb.Response:
        await trio.sleep(float(request.path[1:]))
        return trioweb.Response(200, b"hello")

    site = await start(nursery, wait, http=http)
    for seconds, expected in [(0.9, b"hello"), (1.1, b"")]:
        stream = await site.dial()
        await stream.send_all(post(path=f"/{seconds}"))
        await stream.send_eof()
        assert (await Peer(stream).read_end()).endswith(expected)
    assert site.server.statistics().refused == {0: 1}


# Of responses.


class Pieces:
    """A body of *pieces*, which counts what becomes of it."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self.pieces:
            raise StopAsyncIteration
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        if callable(piece):
            await piece()
            return b""
        return piece

    async def aclose(self) -> None:
        self.closed += 1


def answering(body: Any, status: int = 200) -> Callable[[Any], Awaitable[trioweb.Response]]:
    async def http(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response(status, body, {"Content-Type": "text/x"})

    return http


async def test_body_that_is_made_meanwhile_is_sent_in_chunks(nursery: trio.Nursery) -> None:
    pieces = Pieces("grüße", b"", bytearray(b", "), b"x" * 100_000, memoryview(b"y"))
    site = await start(nursery, wait, http=answering(pieces))
    peer = await site.peer()
    await peer.write(post())
    answer = await peer.read_answer()
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.body == "grüße, ".encode() + b"x" * 100_000 + b"y"
    assert pieces.closed == 1


async def test_each_piece_is_sent_as_it_comes(nursery: trio.Nursery) -> None:
    more = trio.Event()
    site = await start(nursery, wait, http=answering(Pieces(b"one", more.wait, b"two")))
    peer = await site.peer()
    await peer.write(post(Connection="close"))
    await peer.read_head()
    assert await peer.read(8) == b"3\r\none\r\n"
    more.set()
    assert await peer.read_end() == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_body_for_http_1_0_ends_with_the_stream(nursery: trio.Nursery) -> None:
    pieces = Pieces(b"one", b"two")
    site = await start(nursery, wait, http=answering(pieces))
    answer = await site.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.body == b"onetwo"
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert pieces.closed == 1


async def test_body_is_not_made_for_head_but_closed(nursery: trio.Nursery) -> None:
    pieces = Pieces(b"one")
    site = await start(nursery, wait, http=answering(pieces))
    answer = await site.ask(b"HEAD / HTTP/1.1\r\nHost: server\r\n\r\n")
    assert (answer.body, answer.headers["transfer-encoding"]) == (b"", "chunked")
    assert (pieces.closed, pieces.pieces) == (1, [b"one"])


@pytest.mark.parametrize("fault", [RuntimeError("no more disk"), 5, EOFError("file")])
async def test_body_that_fails_is_cut_off_so_that_the_peer_knows(
    fault: Any, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 4: what lacks its last chunk is not taken for the whole."""
    pieces = Pieces(b"one", fault, b"two")
    site = await start(nursery, wait, http=answering(pieces))
    peer = await site.peer()
    await peer.write(post())
    assert (await peer.read_end()).endswith(b"\r\n\r\n3\r\none\r\n")
    assert pieces.closed == 1
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert site.server.statistics().handler_errors == 1


async def test_body_that_fails_to_close_is_told_and_ends_nobody(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Pieces):
        async def aclose(self) -> None:
            raise RuntimeError("no")

    site = await start(nursery, wait, http=answering(Bad(b"one")))
    answer = await site.ask(post())
    assert answer.body == b"one"
    [record] = caplog.records
    assert record.levelno == logging.ERROR


async def test_reader_that_stops_ends_the_body_after_the_write_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 3 and 6."""
    pieces = Pieces(*[bytes(1000)] * 1000)
    network = Network(max_bytes=10_000)
    limits = trioweb.Limits(write_timeout=7)
    site = await start(nursery, wait, http=answering(pieces), network=network, limits=limits)
    peer = await site.peer()
    await peer.write(post())
    await trio.sleep(6.9)
    # No more was made than there was room for.
    assert len(pieces.pieces) > 980
    assert pieces.closed == 0
    await trio.sleep(0.2)
    assert pieces.closed == 1
    assert site.streams == 1
    await peer.stream.aclose()


async def test_body_that_hangs_in_closing_is_left_after_a_second(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    class Slow(Pieces):
        async def aclose(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.closed += 1

    pieces = Slow(b"one")
    site = await start(nursery, wait, http=answering(pieces))
    begun = trio.current_time()
    await site.ask(post(Connection="close"))
    assert pieces.closed == 1
    assert 1 <= trio.current_time() - begun < 3


async def test_body_is_closed_when_the_server_is_cancelled(nursery: trio.Nursery) -> None:
    pieces = Pieces(trio.sleep_forever)
    async with trio.open_nursery() as serving:
        site = await start(serving, wait, http=answering(pieces))
        peer = await site.peer()
        await peer.write(post())
        await peer.read_head()
        serving.cancel_scope.cancel()
    assert pieces.closed == 1
    await peer.read_end()


async def test_status_without_a_body_takes_none_that_is_made_either() -> None:
    with pytest.raises(ValueError, match="must not have a body"):
        trioweb.Response(204, Pieces())


async def test_upgrade_with_a_body_is_refused_though_bodies_are_read(
    nursery: trio.Nursery,
) -> None:
    site = await start(nursery, wait, http=mirror)
    assert (await site.ask(upgrade_head(Content_Length="5"))).status == 400
    assert (await site.ask(upgrade_head(Transfer_Encoding="chunked"))).status == 400
