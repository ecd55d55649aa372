"""open_connection: dialling, every way in which that fails, and the block that it opens."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
import trio.testing

import trioweb
from tests.support import CLOSE, HOST, TEXT, Frame, RawPeer, close_frame, tls_contexts
from trioweb import (
    CloseCode,
    ClosedByPeer,
    ConnectFailed,
    Connection,
    HandshakeFailed,
    HandshakeRejected,
    Heartbeat,
    Limits,
    Reject,
    State,
    open_connection,
    testing,
)
from trioweb.testing import MemoryStream, stream_pair

Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]


class Host:
    """A server in memory that hands its end of every connection to a script."""

    def __init__(
        self, nursery: trio.Nursery, script: Callable[[trio.abc.Stream], Awaitable[object]]
    ) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.streams: list[MemoryStream] = []
        self._nursery = nursery
        self._script = script

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        self.dialled.append((host, port))
        ours, theirs = stream_pair()
        self.streams.append(ours)
        self._nursery.start_soon(self._script, theirs)
        return ours


async def never_dialled(host: str, port: int) -> trio.abc.Stream:
    raise AssertionError("dialled")


class OneStream(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose streams come from `dial`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](10)

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        ours, theirs = stream_pair()
        await self._send.send(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    handler: Callable[[Connection], Awaitable[object]], **options: Any
) -> AsyncGenerator[Dial]:
    """Our own server in memory; yields how to dial it."""
    async with trio.open_nursery() as nursery:
        listener = OneStream()
        await nursery.start(
            lambda task_status: trioweb.serve_listeners(
                handler, [listener], task_status=task_status, **options
            )
        )
        yield listener.dial
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        assert data
        head += bytes(data)
    return head


def answering(response: bytes) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(response)
        await stream.aclose()

    return script


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


# The way in.


async def test_open_connection_talks_over_any_stream_that_dial_returns() -> None:
    seen: list[object] = []

    async def handler(connection: Connection) -> None:
        request = connection.request
        seen.append((request.path, request.query, request.headers["host"], request.headers["x-a"]))
        seen.append(connection.subprotocol)
        await echo(connection)

    async with serving(handler, subprotocols=["b", "c"]) as dial:
        async with open_connection(
            "ws://example.org:8080/lobby/ü?x=1",
            headers={"X-A": "1"},
            subprotocols=["a", "b"],
            dial=dial,
        ) as connection:
            assert connection.subprotocol == "b"
            assert connection.request.path == "/lobby/ü"
            assert connection.remote == ""
            await connection.send("hello")
            assert await connection.receive() == "hello"
    assert connection.state is State.CLOSED
    assert seen == [("/lobby/ü", {"x": "1"}, "example.org:8080", "1"), "b"]


@pytest.mark.parametrize(
    ("url", "dialled"),
    [
        ("ws://example.org/", ("example.org", 80)),
        ("ws://example.org:81", ("example.org", 81)),
        ("ws://[::1]:82/", ("::1", 82)),
    ],
)
async def test_dial_is_asked_for_the_host_and_port_of_the_url(
    url: str, dialled: tuple[str, int], nursery: trio.Nursery
) -> None:
    host = Host(nursery, answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(HandshakeRejected):
        async with open_connection(url, dial=host.dial):
            pass
    assert host.dialled == [dialled]


async def test_headers_of_the_101_can_be_seen(nursery: trio.Nursery) -> None:
    async def admit(request: trioweb.Request) -> trioweb.Accept:
        return trioweb.Accept(headers=[("Set-Cookie", "route=1"), ("Set-Cookie", "b=2")])

    async def handler(connection: Connection) -> None:
        assert connection.headers is connection.request.headers
        await connection.wait_closed()

    async with serving(handler, admit=admit) as dial:
        async with open_connection("ws://example.org", dial=dial) as connection:
            assert connection.headers.get_all("set-cookie") == ["route=1", "b=2"]


async def test_open_connection_works_over_tcp() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trioweb.serve, echo, 0)
        async with open_connection(f"ws://127.0.0.1:{server.port}/") as connection:
            assert connection.remote == ("127.0.0.1", server.port)
            await connection.send(b"hello")
            assert await connection.receive() == b"hello"
        nursery.cancel_scope.cancel()


async def test_tls_goes_on_top_of_what_dial_returns(nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    heads = []

    async def script(stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(stream, server_context, server_side=True)
        heads.append(await read_request(tls))
        await tls.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n")
        await tls.aclose()

    host = Host(nursery, script)
    with pytest.raises(HandshakeRejected) as rejected:
        async with open_connection(
            f"wss://user:p%40ss@{HOST}/", ssl_context=client_context, dial=host.dial
        ):
            pass
    assert host.dialled == [(HOST, 443)]
    assert rejected.value.body == b"no!\n"
    credentials = base64.b64encode(b"user:p@ss")
    assert b"Authorization: Basic " + credentials + b"\r\n" in heads[0]


async def test_a_connection_over_tls_is_closed_in_order() -> None:
    client_context, server_context = tls_contexts()
    async with trio.open_nursery() as nursery:
        serve = trioweb.serve
        server = await nursery.start(
            lambda task_status: serve(echo, 0, ssl_context=server_context, task_status=task_status)
        )
        url = f"wss://localhost:{server.port}/"
        with trio.fail_after(5):
            async with open_connection(url, ssl_context=client_context) as connection:
                await connection.send("hello")
                assert await connection.receive() == "hello"
        assert connection.close_code == 1000
        nursery.cancel_scope.cancel()


# Unix sockets.


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True])
async def test_unix_socket_is_connected_to_by_its_path(secure: bool, tmp_path: Path) -> None:
    path = tmp_path / "a socket:1"
    client_context, server_context = tls_contexts() if secure else (None, None)

    async def handler(connection: trioweb.Connection) -> None:
        request = connection.request
        await connection.send(f"{request.headers['host']} {request.target}")

    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, handler, unix=path, ssl_context=server_context)
        await nursery.start(serve)
        quoted = quote(str(path), safe="/")
        url = f"{'wss' if secure else 'ws'}+unix://{quoted}:/chat?a=b"
        async with open_connection(url, ssl_context=client_context) as connection:
            assert await connection.receive() == "localhost /chat?a=b"
        async with trioweb.open_client(url, ssl_context=client_context) as client:
            assert await client.receive() == "localhost /chat?a=b"
        nursery.cancel_scope.cancel()


@pytest.mark.network
async def test_unix_socket_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match=rf"connect to {tmp_path}/none: No such file"):
        async with open_connection(f"ws+unix://{tmp_path}/none:/"):
            pass


@pytest.mark.parametrize("way", [{"dial": trio.open_tcp_stream}, {"proxy": "http://proxy:1"}])
async def test_ways_that_lead_to_no_unix_socket_are_an_error(way: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ws\+unix:///s:/' .* neither dial nor a proxy"):
        async with open_connection("ws+unix:///s", **way):
            pass


# Why there is none.


async def test_a_refused_connection_is_a_connect_failed() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ConnectFailed, match=rf"127\.0\.0\.1:{port}: .*refused") as failed:
        async with open_connection(f"ws://127.0.0.1:{port}"):
            pass
    assert isinstance(failed.value.__cause__, OSError)


async def test_an_oserror_of_dial_is_a_connect_failed_and_any_other_passes() -> None:
    """Invariant 7."""

    def dial_raising(error: Exception) -> Dial:
        async def dial(host: str, port: int) -> trio.abc.Stream:
            raise error

        return dial

    with pytest.raises(ConnectFailed, match=r"example\.org:80: no route") as failed:
        async with open_connection("ws://example.org", dial=dial_raising(OSError("no route"))):
            pass
    assert str(failed.value.__cause__) == "no route"
    for error in (
        KeyError("own"),
        trio.TooSlowError(),
        ExceptionGroup("", [ValueError()]),
        ExceptionGroup("", [ValueError(), OSError()]),
    ):
        with pytest.raises(type(error)) as raised:
            async with open_connection("ws://example.org", dial=dial_raising(error)):
                pass
        assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("", [OSError("no route")]),
        ExceptionGroup("", [ExceptionGroup("", [OSError("no route")]), OSError("nor there")]),
    ],
)
async def test_oserrors_in_a_group_are_a_connect_failed(error: Exception) -> None:
    """As a `dial` raises them that races proxies in a nursery."""

    async def dial(host: str, port: int) -> trio.abc.Stream:
        raise error

    with pytest.raises(ConnectFailed, match=r"to example\.org:80: no route$") as failed:
        async with open_connection("ws://example.org", dial=dial):
            pass
    assert failed.value.__cause__ is error


async def test_dial_that_fails_to_clean_up_at_the_connect_timeout_is_a_connect_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("no route")

    with pytest.raises(ConnectFailed, match=r"to example\.org:80: no route$"):
        async with open_connection("ws://example.org", dial=dial):
            pass
    assert trio.current_time() == 10


async def test_a_server_that_is_silent_is_left_after_the_connect_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 6; with plain TCP it fails in the handshake."""
    host = Host(nursery, read_request)
    with pytest.raises(HandshakeFailed, match=r"example\.org:80 did not answer within 7 s"):
        async with open_connection(
            "ws://example.org", dial=host.dial, limits=Limits(connect_timeout=7)
        ):
            pass
    assert trio.current_time() == 7
    # Invariant 10: no socket outlives its connection.
    with pytest.raises(trio.ClosedResourceError):
        await host.streams[0].receive_some()


async def test_a_silent_tls_peer_is_left_after_the_connect_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariants 6 and 10."""

    async def script(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    host = Host(nursery, script)
    context, _ = tls_contexts()
    with pytest.raises(HandshakeFailed, match="did not answer within 10 s"):
        async with open_connection(f"wss://{HOST}", dial=host.dial, ssl_context=context):
            pass
    assert trio.current_time() == 10
    with pytest.raises(trio.ClosedResourceError):
        await host.streams[0].receive_some()


async def test_a_dial_that_takes_too_long_is_a_connect_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 6."""

    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    with pytest.raises(ConnectFailed, match=r"example\.org:80 did not answer within 10 s"):
        async with open_connection("ws://example.org", dial=dial):
            pass
    assert trio.current_time() == 10


async def test_a_certificate_that_is_not_trusted_is_a_connect_failed(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    _, server_context = tls_contexts()

    async def script(stream: trio.abc.Stream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, server_context, server_side=True).do_handshake()
        await stream.aclose()

    host = Host(nursery, script)
    with pytest.raises(ConnectFailed, match="certificate verify failed") as failed:
        async with open_connection(f"wss://{HOST}", dial=host.dial):
            pass
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_server_without_tls_is_a_connect_failed(nursery: trio.Nursery) -> None:
    async def script(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    host = Host(nursery, script)
    with pytest.raises(ConnectFailed, match=r"TLS with trioweb\.test:443 failed"):
        async with open_connection(f"wss://{HOST}", dial=host.dial):
            pass


@pytest.mark.parametrize(
    "status", [b"300 Multiple Choices", b"401 Unauthorized", b"503 Unavailable", b"200 OK"]
)
async def test_any_other_answer_is_a_rejection_with_what_it_said(
    status: bytes, nursery: trio.Nursery
) -> None:
    response = (
        b"HTTP/1.1 " + status + b"\r\nLocation: ws://elsewhere/\r\nRetry-After: 5\r\n"
        b"Content-Length: 6\r\n\r\nsorry\n"
    )
    host = Host(nursery, answering(response))
    with pytest.raises(HandshakeRejected) as rejected:
        async with open_connection("ws://example.org", dial=host.dial):
            pass
    assert rejected.value.status == int(status[:3])
    assert rejected.value.header("retry-after") == "5"
    assert rejected.value.body == b"sorry\n"
    assert len(host.dialled) == 1
    assert isinstance(rejected.value, trio.BrokenResourceError)


async def test_a_rejection_by_our_own_server_is_told_whole() -> None:
    async def admit(request: trioweb.Request) -> None:
        raise Reject(401, "who are you?\n", [("WWW-Authenticate", "Basic")])

    async with serving(echo, admit=admit) as dial:
        with pytest.raises(HandshakeRejected) as rejected:
            async with open_connection("ws://example.org", dial=dial):
                pass
    assert (rejected.value.status, rejected.value.body) == (401, b"who are you?\n")
    assert rejected.value.header("www-authenticate") == "Basic"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swi", b"SSH-2.0-OpenSSH_9\r\n\r\n"])
async def test_no_answer_that_makes_sense_is_a_handshake_failed(
    answer: bytes, nursery: trio.Nursery
) -> None:
    """Invariants 7 and 10."""
    host = Host(nursery, answering(answer))
    with pytest.raises(HandshakeFailed):
        async with open_connection("ws://example.org", dial=host.dial):
            pass
    with pytest.raises(trio.ClosedResourceError):
        await host.streams[0].receive_some()


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"url": None}, TypeError, "url: .*None"),
        ({"url": "http://example.org"}, ValueError, "http://example.org.*ws:// or wss://"),
        ({"url": "ws://"}, ValueError, "'ws://': has no host"),
        ({"url": "ws://example.org/a b"}, ValueError, "a b.*spaces"),
        ({"url": "ws://example.org:99999"}, ValueError, "99999.*Port out of range"),
        ({"url": "ws://example.org/#top"}, ValueError, "#top.*fragment"),
        ({"headers": {"X": "a\r\nY: b"}}, ValueError, "header 'X'"),
        ({"headers": [("X\r\nY", "b")]}, ValueError, "header name"),
        ({"headers": {"X": 5}}, TypeError, "each of headers must be two str, not str and int"),
        ({"headers": {"Host": "other"}}, ValueError, "header 'Host' belongs to the handshake"),
        ({"headers": {"Sec-WebSocket-Key": "x"}}, ValueError, "header 'Sec-WebSocket-Key'"),
        ({"subprotocols": "chat"}, TypeError, "subprotocols must be"),
        ({"subprotocols": ["a b"]}, ValueError, "subprotocol 'a b'"),
        ({"subprotocols": ["a", "a"]}, ValueError, "subprotocols has 'a' twice"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "must start with wss://"),
    ],
)
async def test_an_argument_that_cannot_work_is_refused_before_anything_is_dialled(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    arguments = {"url": "ws://example.org/", "dial": never_dialled, **arguments}
    with pytest.raises(error, match=text):
        async with open_connection(**arguments):
            pass


# The block.


@asynccontextmanager
async def watched_server(closed: list[Connection]) -> AsyncGenerator[Dial]:
    async def handler(connection: Connection) -> None:
        await connection.wait_closed()
        closed.append(connection)

    async with serving(handler) as dial:
        yield dial


async def test_leaving_the_block_closes_with_1000() -> None:
    closed: list[Connection] = []
    async with watched_server(closed) as dial:
        async with open_connection("ws://example.org", dial=dial) as connection:
            await connection.send("last words")
    assert connection.state is State.CLOSED
    assert [connection.close_code for connection in closed] == [1000]
    assert closed[0].statistics().discarded == 1


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("own"),
        ExceptionGroup("own", [ValueError("a"), KeyError("b")]),
        BaseExceptionGroup("own", [Odd()]),
        Odd(),
        StopAsyncIteration(),
        trioweb.ConnectionLost(1006, "of some other connection"),
    ],
    ids=repr,
)
async def test_an_exception_of_the_block_passes_unchanged_and_closes_with_1011(
    error: BaseException,
) -> None:
    """Invariant 7."""
    closed: list[Connection] = []
    async with watched_server(closed) as dial:
        with pytest.raises(type(error)) as raised:
            async with open_connection("ws://example.org", dial=dial):
                raise error
    assert raised.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert [connection.close_code for connection in closed] == [CloseCode.INTERNAL_ERROR]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)], ids=repr)
@pytest.mark.parametrize("mute", [False, True], ids=["answers", "mute"])
async def test_an_interrupt_closes_with_1001_and_waits_for_a_second_at_most(
    error: BaseException, mute: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever ends the program has not failed, and waits for no server."""
    ours, theirs = stream_pair()
    codes: list[int] = []

    @nursery.start_soon
    async def serve() -> None:
        peer = await testing.RawPeer.accept(theirs)
        frame = await peer.receive_frame()
        codes.append(int.from_bytes(frame.payload[:2], "big"))
        if not mute:
            await peer.send_frame(CLOSE, frame.payload)
            await theirs.aclose()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    with pytest.raises(type(error)):
        async with open_connection("ws://example.org", dial=dial):
            begun = trio.current_time()
            raise error
    assert codes == [CloseCode.GOING_AWAY]
    assert trio.current_time() - begun == (1 if mute else 0)


async def test_an_exception_of_the_block_wins_over_a_cancellation_that_comes_while_closing(
    nursery: trio.Nursery,
) -> None:
    """Invariant 7, with a server that does not answer our Close."""
    dialled: list[trio.abc.Stream] = []
    async with watched_server([]) as dial:

        async def stubborn(host: str, port: int) -> trio.abc.Stream:
            dialled.append(await dial(host, port))
            return dialled[0]

        with trio.CancelScope() as scope:
            with pytest.raises(ValueError, match="own"):
                async with open_connection("ws://example.org", dial=stubborn):
                    scope.cancel()
                    raise ValueError("own")
        assert not scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await dialled[0].send_all(b"?")


async def test_a_group_with_a_cancellation_in_it_keeps_its_errors() -> None:
    """Invariant 7."""
    async with watched_server([]) as dial:
        with pytest.raises(ExceptionGroup) as raised:
            with trio.CancelScope() as scope:
                async with open_connection("ws://example.org", dial=dial):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.sleep_forever)
                        scope.cancel()
                        raise ValueError("own")
    assert raised.group_contains(ValueError, match="own")
    assert len(raised.value.exceptions) == 1


async def test_a_cancelled_block_ends_at_once_without_waiting_for_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariants 6 and 10."""
    async with watched_server([]) as dial:
        start = trio.current_time()
        with trio.move_on_after(3) as scope:
            async with open_connection("ws://example.org", dial=dial) as connection:
                await connection.receive()
        assert scope.cancelled_caught
        assert trio.current_time() - start == 3
        assert connection.state is State.CLOSED


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_cancelled_block_over_tcp_sends_close_1001(grouped: bool) -> None:
    closed: list[Connection] = []
    told = trio.Event()

    async def handler(connection: Connection) -> None:
        await connection.wait_closed()
        closed.append(connection)
        told.set()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trioweb.serve, handler, 0)
        with trio.CancelScope() as scope:
            async with open_connection(f"ws://127.0.0.1:{server.port}") as connection:
                await connection.ping()
                scope.cancel()
                try:
                    await connection.receive()
                except trio.Cancelled as exc:
                    if grouped:  # as some versions of Trio have it come out of a nursery
                        raise BaseExceptionGroup("", [exc, exc]) from None
                    raise
        with trio.fail_after(5):
            await told.wait()
        nursery.cancel_scope.cancel()
    assert closed[0].close_code == CloseCode.GOING_AWAY


async def test_a_server_that_never_answers_close_is_left_after_the_close_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Invariant 6."""
    peers: list[RawPeer] = []
    async with serving(echo) as dial:

        async def cut(host: str, port: int) -> trio.abc.Stream:
            """Let the handshake through, and then nothing."""
            stream = await dial(host, port)
            ours, theirs = stream_pair()

            async def relay() -> None:
                await stream.send_all(await read_request(theirs))
                await theirs.send_all(await stream.receive_some())
                peers.append(RawPeer(theirs, is_client=False))

            nursery.start_soon(relay)
            return ours

        async with trio.open_nursery() as nursery:
            async with open_connection(
                "ws://example.org", dial=cut, limits=Limits(close_timeout=4)
            ) as connection:
                pass
            assert trio.current_time() == 4
            assert connection.state is State.CLOSED
            assert await peers[0].frames() == [close_frame(1000)]


async def test_the_servers_close_ends_an_iteration_and_the_block_goes_on() -> None:
    async def handler(connection: Connection) -> None:
        await connection.send("hello")
        await connection.aclose(4242, "enough")

    async with serving(handler) as dial:
        async with open_connection("ws://example.org", dial=dial) as connection:
            assert [message async for message in connection] == ["hello"]
            assert (connection.close_code, connection.close_reason) == (4242, "enough")
            with pytest.raises(ClosedByPeer):
                await connection.send("too late")


async def test_what_the_server_sends_with_its_101_is_received(nursery: trio.Nursery) -> None:
    """The bytes behind the blank line belong to the link."""
    async with serving(echo) as dial:

        async def eager(host: str, port: int) -> trio.abc.Stream:
            stream = await dial(host, port)
            ours, theirs = stream_pair()

            async def relay() -> None:
                await stream.send_all(await read_request(theirs))
                greeting = RawPeer(theirs, is_client=False).encode(Frame(TEXT, b"at once"))
                await theirs.send_all(bytes(await stream.receive_some()) + greeting)

            nursery.start_soon(relay)
            return ours

        async with open_connection(
            "ws://example.org", dial=eager, limits=Limits(close_timeout=0.01)
        ) as connection:
            assert await connection.receive() == "at once"


@pytest.mark.parametrize(("heartbeat", "lost"), [(Heartbeat(interval=5, timeout=2), 7), (None, 0)])
async def test_a_heartbeat_notices_a_server_that_fell_silent(
    heartbeat: Heartbeat | None, lost: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Invariant 5."""
    async with serving(echo, heartbeat=None) as dial:
        async with trio.open_nursery() as nursery:

            async def cut(host: str, port: int) -> trio.abc.Stream:
                stream = await dial(host, port)
                ours, theirs = stream_pair()

                async def relay() -> None:
                    await stream.send_all(await read_request(theirs))
                    await theirs.send_all(await stream.receive_some())

                nursery.start_soon(relay)
                return ours

            async with open_connection(
                "ws://example.org", dial=cut, heartbeat=heartbeat
            ) as connection:
                with trio.move_on_after(1000):
                    await connection.wait_closed()
                assert trio.current_time() == (lost or 1000)
                assert connection.close_code == (1006 if lost else None)
