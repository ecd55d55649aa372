"""Bodies of requests: what ends one, and that nobody else reads what is taken here otherwise."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import one_by_one
from trioweb._protocol._bodies import BadBody, BodyDecoder


def decode(reads: list[bytes], length: int | None = None) -> tuple[bytes, bytes]:
    """The body in *reads*, whole, and what follows it."""
    decoder = BodyDecoder(length)
    body = b""
    for data in reads:
        decoder.buffer += data
        while piece := decoder.decode():
            body += piece
    assert decoder.is_complete, "more is wanted"
    assert decoder.size == decoder.received == len(body)
    return body, bytes(decoder.buffer)


_BODIES: dict[str, tuple[bytes, bytes]] = {
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "several": (b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"hello"),
    "none": (b"0\r\n\r\n", b""),
    "hexadecimal digits": (
        b"A\r\n" + b"x" * 10 + b"\r\n0a\r\n" + b"y" * 10 + b"\r\n00\r\n\r\n",
        b"x" * 10 + b"y" * 10,
    ),
    "extensions": (b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nX: y\r\nExpires:\r\n\r\n", b"hello"),
    "line ends as data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize(("data", "body"), _BODIES.values(), ids=_BODIES)
def test_chunks_are_put_together_however_they_come(data: bytes, body: bytes) -> None:
    assert decode([data]) == (body, b"")
    assert decode([data + b"GET / HTTP/1.1\r\n"]) == (body, b"GET / HTTP/1.1\r\n")
    assert decode(one_by_one(data)) == (body, b"")
    for cut in range(len(data)):
        assert decode([data[:cut], data[cut:] + b"next"]) == (body, b"next")


def test_length_alone_says_where_a_body_ends() -> None:
    assert decode([b"hello, next"], 5) == (b"hello", b", next")
    assert decode([b"he", b"llo"], 5) == (b"hello", b"")
    assert decode([b"next"], 0) == (b"", b"next")


_BAD: dict[str, bytes] = {
    "no length": b"\r\nhello",
    "a negative length": b"-5\r\nhello",
    "a signed length": b"+5\r\nhello",
    "a prefix": b"0x5\r\nhello",
    "an underscore": b"1_0\r\nhello",
    "a blank in front": b" 5\r\nhello",
    "a blank behind": b"5 \r\nhello",
    "a blank before an extension": b"5 ;a\r\nhello",
    "a length of 17 digits": b"00000000000000005\r\nhello",
    "a bare LF": b"5\nhello\r\n0\r\n\r\n",
    "a bare LF in an extension": b"5;a\nb\r\nhello",
    "a bare CR in an extension": b"5;a\rb\r\nhello",
    "NUL in an extension": b"5;\0\r\nhello",
    "a chunk longer than it says": b"4\r\nhello\r\n0\r\n\r\n",
    "a chunk with a bare LF behind it": b"5\r\nhello\n0\r\n\r\n",
    "a chunk with a CR and no LF": b"5\r\nhello\r0\r\n\r\n",
    "a chunk with nothing behind it": b"5\r\nhello0\r\n\r\n",
    "an end of bare LFs": b"0\n\n",
    "a bare LF for the last line": b"0\r\n\nGET",
    "a trailer that is none": b"0\r\nhello\r\n\r\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer with a blank in its name": b"0\r\nX Y: z\r\n\r\n",
    "a trailer with a bare CR": b"0\r\nX: \rY: z\r\n\r\n",
    "a request for a trailer": b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    "an endless length": b"0" * 10_000,
    "an endless extension": b"5;" + b"x" * 10_000,
    "an endless trailer": b"0\r\nX: " + b"x" * 10_000,
    "trailers without end": b"0\r\n" + b"X: some thirty bytes, no less\r\n" * 1000,
    "an extension for each byte": b"1;twenty-bytes-of-extension\r\nx\r\n" * 1000,
}


@pytest.mark.parametrize("data", _BAD.values(), ids=_BAD)
def test_doubt_about_a_length_is_an_error(data: bytes) -> None:
    """CWE-444; the last ones: CVE-2023-39326 in Go."""
    for reads in [data], one_by_one(data):
        with pytest.raises(BadBody):
            decode(reads)


def test_size_is_known_before_the_body_has_come() -> None:
    assert BodyDecoder(10**12).size == 10**12
    decoder = BodyDecoder(None)
    decoder.buffer += b"2\r\nhi\r\nffffffffffff\r\nx"
    assert decoder.decode() == b"hi"
    assert decoder.decode() == b"x"
    assert decoder.size == 2 + 0xFFFFFFFFFFFF
    assert decoder.received == 3


_pieces = st.lists(
    st.sampled_from([b"0", b"1", b"5", b"a", b"\r\n", b"\n", b"\r", b";", b" ", b":", b"x", b"\0"])
    | st.binary(max_size=3),
    max_size=14,
)


@given(
    data=_pieces.map(b"".join)
    | st.builds(lambda head, tail: head + tail, st.just(b"2\r\nhi\r\n0\r\n"), _pieces.map(b"".join))
)
def test_whoever_reads_by_the_rules_reads_the_same(data: bytes) -> None:
    """h11 takes more; what is taken here, it takes, and sees the same body and the same rest."""
    try:
        ours = decode([data])
    except (BadBody, AssertionError):
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    parser.next_event()
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert (body, parser.trailing_data[0]) == ours
