"""What is fuzzed: functions of bytes that raise if trioweb does what it never should.

Two hunters use them: hypothesis in the ordinary tests, briefly, and atheris by `nox -s fuzz`, for
as long as one likes and led by coverage.  The first two bytes of an input are the fuzzer's way to
choose settings and where the rest is cut; what follows is what a peer sends.

A new target is a function here, with examples of valid input, in TARGETS.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeVar

import h11
import trio
import trio.testing
from msgspec import UNSET, Raw

from tests.server.support import ACCEPT, upgrade_head
from tests.support import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Frame,
    Script,
    close_frame,
    encode,
    start_connection,
)
from tests.test_frames import read, read_in_pieces, read_simply
from tests.test_speedups import frames_in_c, take
from trioweb import ConnectionClosed, Deflate, Limits, State
from trioweb._centrifuge import CODECS, Codec
from trioweb._centrifuge._replies import Push, Reply
from trioweb._centrifuge._schema import Publication
from trioweb._errors import BadMessage
from trioweb._handshake._responses import read_response
from trioweb._heads import read_head
from trioweb._protocol import _frames_python
from trioweb._protocol._bodies import BadBody, BodyDecoder
from trioweb._protocol._deflate import Compressor, Inflater, choose_offer, read_answer
from trioweb._protocol._http import BadHead, Request, brief
from trioweb._protocol._requests import body_length, expects_continue, may_persist, parse_request
from trioweb._server._events import wants_events
from trioweb._server._front import check_request
from trioweb._server._origins import Origins
from trioweb._server._proxies import Proxies

_T = TypeVar("_T")

_LIMIT: Final = 200  # bytes of a message, so that the fuzzer comes across it
_HEAD_LIMIT: Final = 400
_RSV1: Final = 0x40


@dataclass(frozen=True)
class Target:
    """What to call with any bytes, and valid examples to begin with."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def _split(data: bytes) -> tuple[int, list[int], bytes]:
    """The settings, the cuts and the payload of an input."""
    settings, cuts, payload = data[:1], data[1:2], data[2:]
    source = random.Random(cuts)
    places = sorted(source.choices(range(len(payload) + 1), k=cuts[0] % 16 if cuts else 0))
    return (settings or b"\0")[0], places, payload


def _pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *cuts, len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    return [piece for piece in pieces if piece]


# Frames.


def frames(data: bytes) -> None:
    """The decoder gives what a simple one gives, however the bytes are cut, or a FrameError."""
    settings, cuts, wire = _split(data)
    masked = bool(settings & 1)
    expected = read_simply(wire, masked=masked, max_message_bytes=_LIMIT)
    assert expected[1] in (None, 1002, 1007, 1009)
    assert read(wire, masked=masked) == expected
    assert read_in_pieces(wire, cuts, masked=masked) == expected


def messages_in_c(data: bytes) -> None:
    """Messages are taken out of a chunk in C as they are in Python, where both can be had."""
    settings, cuts, wire = _split(data)
    for place in (0, *cuts):
        options: dict[str, Any] = {"masked": bool(settings & 1), "work": settings >> 1 & 15}
        options["limit"] = _LIMIT if settings & 32 else 2**20
        in_c = take(frames_in_c, wire, place, **options)
        assert in_c == take(_frames_python, wire, place, **options)


_CONVERSATION: Final = (
    Frame(TEXT, "grüße".encode()),
    Frame(BINARY, bytes(range(126))),
    Frame(TEXT, b"ab", fin=False),
    Frame(PING, b"?"),
    Frame(0x0, b"", fin=False),
    Frame(0x0, b"c"),
    Frame(PONG, b"!"),
    Frame(BINARY, bytes(_LIMIT)),
    close_frame(1000, "bye"),
)


# What a hunt has found, each with what it was about.
_FOUND: Final = (
    bytes.fromhex("0100 81875a00723c 8d999f9a"),  # a surrogate that is not all there
)


def _frame_seeds() -> list[bytes]:
    seeds = list(_FOUND)
    for masked in False, True:
        wire = [encode(frame, masked=masked) for frame in _CONVERSATION]
        seeds += [
            bytes([masked, cuts]) + data for data in (*wire, b"".join(wire)) for cuts in (0, 7)
        ]
    return seeds


# Compression.


def deflated(data: bytes) -> None:
    """The decoder inflates what it is given, however the bytes are cut, or raises a FrameError."""
    settings, cuts, wire = _split(data)
    takeover = bool(settings & 1)
    whole = read(wire, inflater=Inflater(15, takeover=takeover))
    # And wherever it stops meanwhile.
    work = 1 + (settings >> 1) * 8
    pieces = read_in_pieces(
        wire, cuts, inflater=Inflater(15, takeover=takeover), work_per_feed=work
    )
    for events, code in whole, pieces:
        assert code in (None, 1002, 1007, 1009)
        assert all(len(event) <= _LIMIT for event in events if isinstance(event, (str, bytes)))
    # Where there is more than one fault, the cuts decide which is found first.
    assert whole == pieces or None not in (whole[1], pieces[1])


def extensions(data: bytes) -> None:
    """An offer is taken or not, and an answer to ours has one error."""
    header = data[2:].decode("latin-1")
    choose_offer(header, Deflate())
    with suppress(ValueError):
        read_answer(header, Deflate())


def _deflated_seeds() -> list[bytes]:
    packed = Compressor(Deflate(min_bytes=1), 15).compress(b"again and " * 15)
    bomb = Compressor(Deflate(min_bytes=1), 15).compress(bytes(5000))
    assert packed and bomb
    half = len(packed) // 2
    wire = (
        encode(Frame(_RSV1 | TEXT, packed), masked=False),
        encode(Frame(_RSV1 | TEXT, packed[:half], fin=False), masked=False)
        + encode(Frame(0x0, packed[half:]), masked=False),
        encode(Frame(_RSV1 | BINARY, bomb), masked=False),
    )
    return [
        bytes([takeover, cuts]) + data
        for takeover in (0, 1)
        for cuts in (0, 7)
        for data in (*wire, b"".join(wire[:2]))
    ]


_EXTENSIONS: Final = (
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b'permessage-deflate; server_no_context_takeover; server_max_window_bits="9", other; a=b',
)


# Heads.  A coroutine that never really waits needs no event loop.


class _Ready:
    """A stream whose bytes are all there."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = list(pieces)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece[max_bytes:]:
            self._pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]


def _finish(awaitable: Awaitable[_T]) -> _T:
    waiting = awaitable.__await__()
    try:
        next(waiting)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waited")


def requests(data: bytes) -> None:
    """A request is taken or refused with BadHead, the same however the bytes are cut; and its head
    is malformed if it is so for h11, or folded."""
    settings, cuts, wire = _split(data)
    proxies = Proxies(["0.0.0.0/1", "unix"] if settings & 1 else [])
    assert _request_head(_pieces(wire, []), proxies) == _request_head(_pieces(wire, cuts), proxies)


def _parse_beside_h11(head: bytes) -> Request:
    """*head* parsed; h11 takes what is taken, and reads the same, and nothing else is malformed."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    event: Any = None
    with suppress(h11.RemoteProtocolError):
        parser.receive_data(head)
        event = parser.next_event()
    try:
        request = parse_request(head, remote=("127.0.0.1", 1), local="")
    except BadHead as exc:
        is_folded = b"\r\n " in head or b"\r\n\t" in head
        if "not an HTTP/1.1 request" in exc.reason and not is_folded:
            assert event is None or not event.http_version.startswith(b"1.")
        raise
    assert isinstance(event, h11.Request)
    assert (request.method.encode(), request.version.encode()) == (event.method, event.http_version)
    fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
    if event.target.startswith(b"/") or event.target == b"*":
        assert request.target == event.target.decode()
    else:  # with a host of its own
        fields = [pair for pair in fields if pair[0] != "host"] + [
            ("host", request.headers["host"])
        ]
        assert request.target == "*" or request.target[1:] in event.target.decode()
    # That one h11 writes in small letters.
    assert fields == [
        (name, value.lower() if name == "transfer-encoding" else value)
        for name, value in request.headers.items_all()
    ]
    return request


def _request_head(pieces: list[bytes], proxies: Proxies) -> bytes | None:
    """The head, if it is taken, and whatever is asked of it has an answer."""
    stream: Any = _Ready(pieces)
    try:
        head, _ = _finish(read_head(stream, _HEAD_LIMIT))
        request = _parse_beside_h11(head)
        proxies.identify(proxies.meet(request.remote), request)
        check_request(request)
    except EOFError:
        return None
    except BadHead as exc:
        fault = exc
    else:
        assert len(head) <= _HEAD_LIMIT
        assert b"\n" not in head.replace(b"\r\n", b"")
        whole = request.method == "OPTIONS" and request.path == "*"
        assert request.path.startswith("/") or whole
        length = body_length(request)
        assert length is None or 0 <= length < 10**20
        for ask in expects_continue, may_persist, wants_events:
            assert ask(request) in (False, True)
        assert brief(repr(request)).isprintable()
        assert isinstance(request.query, dict)
        assert isinstance(request.remote, tuple)
        Origins(()).complaint(request)
        return head
    assert 400 <= fault.status <= 505
    assert len(fault.reason) < 300
    return None


_REQUESTS: Final = (
    upgrade_head(),
    upgrade_head(
        "/%c3%a4?a=b", Origin="http://server", Cookie="a=b", Sec_WebSocket_Protocol="a, b"
    ),
    upgrade_head(extra=[("X-Forwarded-For", "1.1.1.1, [::1]:80, ::ffff:1.2.3.4")]),
    upgrade_head(extra=[("Sec-WebSocket-Extensions", 'permessage-deflate; a="b"')]),
    upgrade_head(Content_Length="0") + b"\x81\x00",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"PUT http://a:1?b HTTP/1.1\r\nhost: x\r\nX: \t \xa0a\xe4 b\x85 \r\nY:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream;q=1\r\n\r\n",
)


def bodies(data: bytes) -> None:
    """A body is taken or refused with BadBody, the same however the bytes are cut; what is taken,
    h11 takes, too, with the same body and the same rest."""
    settings, cuts, wire = _split(data)
    length = None if settings & 1 else settings >> 1
    taken = _body(_pieces(wire, []), length)
    assert taken == _body(_pieces(wire, cuts), length)
    if taken is not None and length is None:
        parser = h11.Connection(h11.SERVER)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        parser.receive_data(head + wire)
        parser.next_event()
        body = b""
        while isinstance(event := parser.next_event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        assert (body, parser.trailing_data[0]) == taken


def _body(pieces: list[bytes], length: int | None) -> tuple[bytes, bytes] | None:
    """The body and what follows it; None if it is none, or not all of it is there."""
    decoder = BodyDecoder(length)
    body = b""
    for piece in pieces:
        decoder.buffer += piece
        try:
            while part := decoder.decode():
                body += part
        except BadBody:
            return None
    return (body, bytes(decoder.buffer)) if decoder.is_complete else None


_BODIES: Final = (
    b"5\r\nhello\r\n0\r\n\r\nGET",
    b'1;a="b"\r\nx\r\nA;c\r\n0123456789\r\n000\r\nX: y\r\nZ:\r\n\r\n',
    b"3\r\n\r\n\n\r\n0\r\n\r\n",
)


def responses(data: bytes) -> None:
    """An answer to an upgrade is taken or refused with BadHead."""
    _, cuts, wire = _split(data)
    stream: Any = _Ready(_pieces(wire, cuts))
    try:
        status, headers, body = trio.run(read_response, stream, _HEAD_LIMIT)
    except (BadHead, EOFError):
        return
    assert status == 101 or 200 <= status < 1000
    assert len(body) <= len(wire)
    assert all(name == name.lower() for name in headers)


_SWITCH: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
)
_RESPONSES: Final = (
    _SWITCH + b"\x81\x02hi",
    b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + _SWITCH,
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 503 \r\nRetry-After: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
)


# Links.


class _Silence(logging.Handler):
    """Fails on what the library itself calls unexpected."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            raise AssertionError(self.format(record))


def links(data: bytes) -> None:
    """An open connection takes anything, ends within its deadlines, and no error is our own."""
    settings, cuts, wire = _split(data)
    logger = logging.getLogger("trioweb")
    handler = _Silence()
    logger.addHandler(handler)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_link, bool(settings & 1), bool(settings & 2), _pieces(wire, cuts), clock=clock)
    finally:
        logger.removeHandler(handler)


async def _link(is_client: bool, silent: bool, pieces: list[bytes]) -> None:
    limits = Limits(max_message_bytes=_LIMIT, inbox_messages=2)
    stream = Script(pieces, silent=silent)
    async with trio.open_nursery() as nursery:
        connection = start_connection(
            nursery, stream, is_client=is_client, limits=limits, replies={"?": "!"}
        )
        messages = []
        with trio.move_on_after(30):
            try:
                while True:
                    messages.append(await connection.receive())
            except ConnectionClosed:
                pass
        # A silent peer stays until it is told to go; any other has ended by itself.
        if connection.state is State.OPEN:
            assert silent
            with trio.fail_after(30):
                await connection.aclose()
            assert connection.close_code == 1000
        else:
            assert connection.close_code is not None
        with trio.fail_after(30):
            await connection.wait_closed()
        assert connection.state is State.CLOSED
    assert connection.statistics().bytes_received <= sum(map(len, pieces))
    sent = len(messages) + connection.statistics().discarded
    assert sent <= connection.statistics().messages_received


def _link_seeds() -> list[bytes]:
    # A link that is a client reads what is not masked.
    return [
        bytes([is_client | silent << 1, cuts])
        + b"".join(encode(frame, masked=not is_client) for frame in _CONVERSATION[:stop])
        for is_client in (False, True)
        for silent in (False, True)
        for cuts, stop in ((0, 3), (5, 7), (9, 9))
    ]


# The Centrifuge client protocol.


def messages(data: bytes) -> None:
    """Anything is read or refused with BadMessage, as is the cut; what is read is written again."""
    settings, cuts, wire = _split(data)
    codec = CODECS["centrifuge-json" if settings & 1 else ""]
    if settings & 2:
        codec = CODECS["centrifuge-protobuf"]
    text = wire.decode("latin-1") if settings & 4 else wire
    decode = codec.decode_replies if settings & 8 else codec.decode_commands
    whole = _read_messages(decode(text))
    for message in whole:
        assert _read_messages(decode(codec.encode(message))) == [message]
        # Python's is the peer whose limits are the narrowest, and JSON what it has to be able to
        # read of a peer with either encoding.
        payload = getattr(getattr(message, "request", None), "data", UNSET)
        if isinstance(payload, Raw):
            _relay(codec, payload)
    if not whole:  # bytes that are not UTF-8 are none of JSON's, wherever they stand
        return
    for cut in cuts:
        before = _read_messages(decode(text[:cut]))
        assert before[:-1] == whole[: max(0, len(before) - 1)]


def _read_messages(reading: Iterator[Any]) -> list[Any]:
    found = []
    try:
        for message in reading:
            found.append(message)
    except BadMessage:
        pass
    return found


def _relay(codec: Codec, data: Raw) -> None:
    """Publish what a peer has sent to one with the other encoding."""
    message, is_json = codec.message(data)
    for other in CODECS.values():
        payload = other.payload(message, is_json=is_json)
        line = other.encode(Reply(push=Push(topic="a", pub=Publication(data=payload))))
        if isinstance(line, str):
            assert "\n" not in line
            json.loads(line)
        assert len(_read_messages(other.decode_replies(line))) == 1


_COMMANDS: Final = (
    '{"id":1,"connect":{"data":{"a":[1e5,"\\ud800"]},"subs":{"a":{"recover":true,"offset":3}}}}\n{}',
    '{"id":2,"subscribe":{"channel":"a","tf":{"op":"or","nodes":[{"key":"a","vals":["b"]}]}}}\n',
    '{"id":3,"publish":{"channel":"a","data":{"a":"\\u00e4"}}}\n{"send":{"data":null}}',
    '{"id":4,"history":{"channel":"a","limit":-1,"since":{"offset":2,"epoch":"e"}}}',
    '{"id":5,"rpc":{"method":"m","data":[],"x_timeout":5}}\n{"x_cancel":{"id":5}}',
)
_REPLIES: Final = (
    '{"id":1,"connect":{"client":"c","ping":25,"pong":true,"subs":{"a":{"epoch":"e","offset":3}}}}\n{}',
    '{"id":2,"error":{"code":100,"message":"no","temporary":true}}',
    '{"push":{"channel":"a","pub":{"data":1,"offset":2,"tags":{"a":"b"},"info":{"user":"u"}}}}',
    '{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"x"}}}\n{"id":3,"presence":{}}',
)


def _message_seeds() -> list[bytes]:
    json_, protobuf = CODECS["centrifuge-json"], CODECS["centrifuge-protobuf"]
    seeds = []
    for examples, what in (_COMMANDS, 0), (_REPLIES, 8):
        for line in examples:
            decode = json_.decode_replies if what else json_.decode_commands
            written = protobuf.join(protobuf.encode(message) for message in decode(line))
            assert isinstance(written, bytes)
            seeds += [bytes([what, 7]) + line.encode(), bytes([what | 2, 7]) + written]
    return seeds


def payloads(data: bytes) -> None:
    """Whatever is published from Protobuf, each peer can read what it gets."""
    _, _, wire = _split(data)
    _relay(CODECS["centrifuge-protobuf"], Raw(wire))


_PAYLOADS: Final = (
    b'{"a": [1, "\\ud83d\\ude00", "\\udc00"]}',
    b"\xff",
    b'["[", {"]": {}}]',
    b"1e400",
)


TARGETS: Final = {
    "frames": Target(frames, _frame_seeds()),
    "messages-in-c": Target(
        messages_in_c, [bytes([0x3E | seed[0]]) + seed[1:] for seed in _frame_seeds()]
    ),
    "deflated": Target(deflated, _deflated_seeds()),
    "extensions": Target(extensions, [bytes(2) + header for header in _EXTENSIONS]),
    "requests": Target(requests, [bytes([n % 2, n]) + seed for seed in _REQUESTS for n in (0, 7)]),
    "bodies": Target(bodies, [bytes([n, n]) + seed for seed in _BODIES for n in (1, 7, 10)]),
    "responses": Target(responses, [bytes([0, n]) + seed for seed in _RESPONSES for n in (0, 7)]),
    "links": Target(links, _link_seeds()),
    "messages": Target(messages, _message_seeds()),
    "payloads": Target(payloads, [bytes(2) + payload for payload in _PAYLOADS]),
}

# What hypothesis puts into the seeds: bytes that mean something somewhere.
ODD: Final = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b"=", b'"', b"%", b"\0"),
    *(b"\x7e\x00\x7e", b"\x7f" + bytes(7) + b"\x01", b"\xff" * 8, b"\x80", b"\xed\xa0\x80"),
    *(b'"', b"\\ud800", b"[{", b"null", b"NaN", b'"id":', b"\x08\x01", b"\x2a\x00"),
    *(bytes([opcode]) for opcode in (0x00, 0x01, 0x02, 0x80, 0x81, 0x88, 0x89, 0xC1)),
)
