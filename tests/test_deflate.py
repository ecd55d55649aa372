"""Compression by itself: what is agreed upon, and that messages come out as they went in.

The other end is zlib itself, used as RFC 7692 describes it.
"""

from __future__ import annotations

import random
import re
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import count_inflating, final_blocks
from trioweb import CloseCode, Deflate
from trioweb._errors import FrameError
from trioweb._protocol import _deflate as trioweb_deflate
from trioweb._protocol._deflate import (
    OFFER,
    Agreement,
    Compressor,
    Inflater,
    _idle,
    check_compression,
    choose_offer,
    read_answer,
)

_POLICY: Final = Deflate(min_bytes=1)
_TAIL: Final = b"\x00\x00\xff\xff"
# RFC 7692 section 7.2.3, each is "Hello".
_RFC_HELLOS: Final = {
    "one block": "f2 48 cd c9 c9 07 00",
    "a second one, which refers to the first": "f2 00 11 00 00",
    "a block without compression": "00 05 00 fa ff 48 65 6c 6c 6f 00",
    "a final block": "f3 48 cd c9 c9 07 00 00",
    "two blocks": "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
}


class Peer:
    """Another implementation's compressor, with or without context takeover."""

    def __init__(self, window_bits: int = 15, *, takeover: bool = True, level: int = 6) -> None:
        self._make: Callable[[], Any] = lambda: zlib.compressobj(level, wbits=-window_bits)
        self._takeover = takeover
        self._zlib = self._make()

    def compress(self, message: bytes) -> bytes:
        if not self._takeover:
            self._zlib = self._make()
        data: bytes = self._zlib.compress(message) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(_TAIL)


def inflate_alone(data: bytes, window_bits: int = 15) -> bytes:
    """Inflate *data* as a peer does who keeps no context, and no larger window."""
    return zlib.decompressobj(-window_bits).decompress(data + _TAIL)


def text_of(size: int, seed: int = 1) -> bytes:
    """Words, which compress well and refer far back."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randint(2, 9)).hex().encode() for _ in range(200)]
    return b" ".join(rng.choice(words) for _ in range(size // 5))[:size]


# What is agreed upon.

_SERVER: Final = "permessage-deflate; server_no_context_takeover"
_CLIENT: Final = f"{_SERVER}; client_no_context_takeover"

# What a client offers; the answer, and how the server then compresses and inflates.
_OFFERS: Final[dict[str, tuple[str, int, int, bool]]] = {
    "permessage-deflate": (_SERVER, 12, 15, True),
    OFFER: (_CLIENT, 12, 15, False),
    "permessage-deflate; client_max_window_bits": (_SERVER, 12, 15, True),
    "permessage-deflate; client_max_window_bits=8": (
        f"{_SERVER}; client_max_window_bits=8",
        12,
        8,
        True,
    ),
    'permessage-deflate; client_max_window_bits="1\\0"': (
        f"{_SERVER}; client_max_window_bits=10",
        12,
        10,
        True,
    ),
    "permessage-deflate; server_no_context_takeover": (_SERVER, 12, 15, True),
    "permessage-deflate; client_no_context_takeover": (_CLIENT, 12, 15, False),
    "permessage-deflate; server_max_window_bits=9": (
        f"{_SERVER}; server_max_window_bits=9",
        9,
        15,
        True,
    ),
    " \t, ,permessage-deflate \t;\tserver_max_window_bits = 15 ; client_max_window_bits=12,,": (
        f"{_SERVER}; server_max_window_bits=15; client_max_window_bits=12",
        12,
        12,
        True,
    ),
    'x-other; a=1; b="; permessage-deflate, \\""; c, permessage-deflate': (
        _SERVER,
        12,
        15,
        True,
    ),
    # The first that can be taken is; what cannot be taken leaves the next to be tried.
    "permessage-deflate; server_max_window_bits=10, permessage-deflate": (
        f"{_SERVER}; server_max_window_bits=10",
        9,
        15,
        True,
    ),
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": (_SERVER, 12, 15, True),
    "permessage-deflate; x=1, permessage-deflate; client_no_context_takeover": (
        _CLIENT,
        12,
        15,
        False,
    ),
    # What comes behind it is nobody's business.
    "permessage-deflate, ;;": (_SERVER, 12, 15, True),
}


@pytest.mark.parametrize("header", _OFFERS)
def test_server_takes_the_first_offer_that_it_can(header: str) -> None:
    text, our_bits, peer_bits, takeover = _OFFERS[header]
    assert choose_offer(header, _POLICY) == Agreement(
        text, Compressor(_POLICY, our_bits), peer_bits, takeover
    )


def test_windows_that_peers_choose_make_no_forms_of_their_own() -> None:
    """Each form is compressed and kept once more, so peers must not decide how many there are."""
    chosen: dict[int, set[int]] = {}
    for bits in range(9, 16):
        agreed = choose_offer(f"permessage-deflate; server_max_window_bits={bits}", _POLICY)
        answered = read_answer(f"permessage-deflate; client_max_window_bits={bits}", _POLICY)
        assert agreed is not None and agreed.compressor is not None
        assert agreed.compressor == answered.compressor
        chosen.setdefault(agreed.compressor.window_bits, set()).add(bits)
    # Who says nothing is with those that allow all.
    silent = choose_offer("permessage-deflate", _POLICY)
    assert silent is not None and silent.compressor == Compressor(_POLICY, max(chosen))
    assert len(chosen) == 2
    assert all(window <= min(allowed) for window, allowed in chosen.items())


_BAD_PARAMETERS: Final = (
    "x",
    "x=1",
    "server_no_context_takeover=1",
    'client_no_context_takeover=""',
    "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; client_no_context_takeover",
    "server_max_window_bits",
    "server_max_window_bits=7",
    "server_max_window_bits=16",
    "server_max_window_bits=010",
    "server_max_window_bits=+10",
    'server_max_window_bits=" 10"',
    "server_max_window_bits=10; server_max_window_bits=10",
    "client_max_window_bits=7",
    "client_max_window_bits=16",
    "client_max_window_bits=ten",
    'client_max_window_bits=""',
    "client_max_window_bits=10; client_max_window_bits=10",
    "CLIENT_NO_CONTEXT_TAKEOVER",
)
_BROKEN: Final = (
    ";",
    "=",
    '"permessage-deflate"',
    "permessage-deflate;",
    "permessage-deflate; ;",
    "permessage-deflate server_no_context_takeover",
    "permessage-deflate=1",
    "permessage-deflate; server_max_window_bits=",
    "permessage-deflate; server_max_window_bits==10",
    'permessage-deflate; server_max_window_bits="10',
    'permessage-deflate; server_max_window_bits="10\\"',
    'permessage-deflate; server_max_window_bits="10"0',
    "permessage-deflate; server_max_window_bits=10 11",
    "permessage/deflate",
)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "x-other",
        "permessage-bzip2",
        "Permessage-Deflate",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits=8",
        *(f"permessage-deflate; {bad}" for bad in _BAD_PARAMETERS),
        *_BROKEN,
    ],
)
def test_server_declines_what_it_cannot_take(header: str) -> None:
    assert choose_offer(header, _POLICY) is None


# What a server answers to our offer, and how the client then compresses and inflates.
_ANSWERS: Final = {
    "permessage-deflate": (12, 15, True),
    "permessage-deflate; server_no_context_takeover": (12, 15, False),
    "permessage-deflate; client_no_context_takeover": (12, 15, True),
    "permessage-deflate; server_max_window_bits=8": (12, 8, True),
    "permessage-deflate; client_max_window_bits=9": (9, 15, True),
    # zlib cannot compress for it, so what we send stays as it is.
    "permessage-deflate; client_max_window_bits=8": (None, 15, True),
    'permessage-deflate ;client_max_window_bits="12";server_max_window_bits=11': (12, 11, True),
}


@pytest.mark.parametrize("header", _ANSWERS)
def test_client_does_as_the_server_answers(header: str) -> None:
    our_bits, peer_bits, takeover = _ANSWERS[header]
    compressor = None if our_bits is None else Compressor(_POLICY, our_bits)
    assert read_answer(header, _POLICY) == Agreement(header, compressor, peer_bits, takeover)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x-other",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate, x-other",
        "permessage-deflate; client_max_window_bits",  # only an offer may leave it open
        *(f"permessage-deflate; {bad}" for bad in _BAD_PARAMETERS),
        *_BROKEN,
    ],
)
def test_client_refuses_an_answer_that_it_did_not_offer(header: str) -> None:
    with pytest.raises(ValueError, match=r"not what was offered|makes no sense|parameter"):
        read_answer(header, _POLICY)


@pytest.mark.parametrize("offer", _OFFERS)
def test_client_takes_whatever_the_server_answers_to_its_like(offer: str) -> None:
    agreed = choose_offer(offer, _POLICY)
    assert agreed is not None
    answered = read_answer(agreed.text, _POLICY)
    assert agreed.compressor is not None
    # What is sent needs no larger window than the peer has.
    assert answered.peer_bits >= agreed.compressor.window_bits
    assert not answered.peer_takeover


_HOSTILE: Final = {
    "offers": "permessage-deflate; x, ",
    "parameters": "; x",
    "commas": ",",
    "blanks": " ",
    "an open quote": 'permessage-deflate; x="',
    "backslashes": "\\",
    "escapes": '\\"',
    "semicolons": ";",
    "a token": "x",
    "tabs and commas": "\t,",
}


@pytest.mark.parametrize("name", _HOSTILE)
@pytest.mark.parametrize("start", ["", "permessage-deflate", 'permessage-deflate; x="'])
def test_offers_are_read_in_linear_time(
    name: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is matched is counted: no character of a header is matched twice, but for blanks."""
    matched = 0

    class Counting:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self._pattern = pattern

        def match(self, header: str, position: int) -> re.Match[str] | None:
            nonlocal matched
            found = self._pattern.match(header, position)
            # One more for a pattern that finds nothing.
            matched += 1 if found is None else found.end() - found.start()
            return found

    for pattern in ("_EXTENSION", "_PARAMETER", "_COMMA"):
        counting = Counting(getattr(trioweb_deflate, pattern))
        monkeypatch.setattr(trioweb_deflate, pattern, counting)
    header = start + _HOSTILE[name] * 10_000
    choose_offer(header, _POLICY)
    assert matched <= 4 * len(header)


def test_compression_must_be_a_policy() -> None:
    check_compression(None)
    check_compression(_POLICY)
    with pytest.raises(TypeError, match="compression='deflate': must be a Deflate, or None"):
        check_compression("deflate")


# What we send.


@given(st.lists(st.binary(min_size=1)), st.integers(9, 15), st.integers(1, 9))
def test_each_message_is_compressed_by_itself(
    messages: list[bytes], window_bits: int, level: int
) -> None:
    compressor = Compressor(Deflate(level=level, min_bytes=1), window_bits)
    for message in messages:
        message *= 20
        data = compressor.compress(message)
        if data is not None:
            assert len(data) < len(message)
            assert inflate_alone(data, window_bits) == message


def test_the_same_message_always_makes_the_same_bytes() -> None:
    message = text_of(5000)
    assert len({Compressor(Deflate(), 15).compress(message) for _ in range(3)}) == 1


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_compression_keeps_to_the_window_agreed_upon(window_bits: int) -> None:
    far_back = random.Random(1).randbytes(2**window_bits - 300)
    message = far_back * 3
    data = Compressor(_POLICY, window_bits).compress(message)
    assert data is not None
    assert inflate_alone(data, window_bits) == message
    beyond = random.Random(1).randbytes(2**window_bits + 1) * 3
    assert Compressor(_POLICY, window_bits).compress(beyond) is None


def test_what_is_small_or_would_grow_stays_as_it_is() -> None:
    compressor = Compressor(Deflate(min_bytes=100), 15)
    assert compressor.compress(b"x" * 99) is None
    assert compressor.compress(b"x" * 100) is not None
    assert compressor.compress(random.Random(1).randbytes(1000)) is None


def test_a_compressor_that_was_interrupted_is_used_no_more() -> None:
    class Interrupted:
        def compress(self, data: bytes) -> bytes:
            return zlib.compress(data)

        def flush(self, mode: int) -> bytes:
            raise MemoryError

    policy = Deflate(level=7)
    compressor = Compressor(policy, 11)
    _idle[7, 11] = Interrupted()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        compressor.compress(text_of(1000))
    data = compressor.compress(text_of(1000))
    assert data is not None
    assert inflate_alone(data) == text_of(1000)


# What we receive.


def inflate_all(inflater: Inflater, data: bytes, max_bytes: int, *, last: bool) -> bytes:
    """Put *data*, and inflate it piece by piece until all is done or there is too much."""
    inflater.put(data, last=last)
    parts = []
    while inflater.pending and max_bytes >= 0:
        parts.append(inflater.inflate(max_bytes))
        max_bytes -= len(parts[-1])
    return b"".join(parts)


@pytest.mark.parametrize("payload", _RFC_HELLOS.values(), ids=_RFC_HELLOS)
def test_inflater_knows_the_examples_of_the_rfc(payload: str) -> None:
    inflater = Inflater(15, takeover=True)
    first = bytes.fromhex(_RFC_HELLOS["one block"])
    assert inflate_all(inflater, first, 5, last=True) == b"Hello"
    assert inflate_all(inflater, bytes.fromhex(payload), 5, last=True) == b"Hello"


@given(
    st.lists(st.binary(), max_size=5),
    st.lists(st.integers(1, 100)),
    st.integers(9, 15),
    st.booleans(),
)
def test_inflater_puts_together_what_a_peer_takes_apart(
    messages: list[bytes], cuts: list[int], window_bits: int, takeover: bool
) -> None:
    peer = Peer(window_bits, takeover=takeover)
    inflater = Inflater(window_bits, takeover=takeover)
    for message in messages:
        message *= 20
        data = peer.compress(message)
        found = b""
        for size in cuts:
            piece, data = data[:size], data[size:]
            found += inflate_all(inflater, piece, len(message) - len(found), last=False)
        found += inflate_all(inflater, data, len(message) - len(found), last=True)
        assert found == message


def test_inflater_forgets_the_context_when_that_was_agreed() -> None:
    peer = Peer(takeover=True)
    first, second = peer.compress(text_of(500)), peer.compress(text_of(500))
    inflater = Inflater(15, takeover=False)
    assert inflate_all(inflater, first, 500, last=True) == text_of(500)
    with pytest.raises(FrameError):
        inflate_all(inflater, second, 500, last=True)


def test_inflater_holds_nothing_before_the_first_message_and_between_those_by_themselves() -> None:
    data = Peer().compress(text_of(100_000))
    inflater = Inflater(15, takeover=False)
    tracemalloc.start()
    try:
        for _ in range(3):
            inflate_all(inflater, data, 100_000, last=True)
        assert tracemalloc.get_traced_memory()[0] < 1000
    finally:
        tracemalloc.stop()
    assert inflater._zlib is None


@pytest.mark.parametrize("data", [b"\xff", b"\x07\x00", b"garbage", bytes.fromhex("f20011 00")])
def test_inflater_says_when_data_is_corrupt(data: bytes) -> None:
    with pytest.raises(FrameError, match="corrupt compressed data") as caught:
        inflate_all(Inflater(15, takeover=True), data, 1000, last=True)
    assert caught.value.code == CloseCode.INVALID_PAYLOAD


def test_inflater_refuses_what_refers_beyond_the_window() -> None:
    message = random.Random(1).randbytes(20_000) * 2
    inflater = Inflater(9, takeover=True)
    with pytest.raises(FrameError):
        data = Peer(15).compress(message)
        for start in range(0, len(data), 100):
            inflate_all(inflater, data[start : start + 100], 2**20, last=False)


@given(st.binary(), st.booleans())
def test_inflater_raises_nothing_else(data: bytes, last: bool) -> None:
    try:
        found = inflate_all(Inflater(15, takeover=True), data, 1000, last=last)
    except FrameError:
        return
    assert len(found) <= 1001


@pytest.mark.parametrize("limit", [0, 1, 1000, 10_000])
def test_inflater_stops_behind_the_limit(limit: int) -> None:
    for size, expected in ((limit, limit), (limit + 1, limit + 1), (limit + 10_000, limit + 1)):
        data = Peer().compress(b"x" * size)
        found = inflate_all(Inflater(15, takeover=True), data, limit, last=True)
        assert found == b"x" * expected


def test_a_bomb_costs_no_more_memory_than_the_limit() -> None:
    limit = 2**20
    bomb = Peer(level=9).compress(bytes(2**26))
    tracemalloc.start()
    try:
        inflate_all(Inflater(15, takeover=True), bomb, limit, last=True)
        # zlib's blocks and what they are joined to, the bomb's copy and what is left of it.
        assert tracemalloc.get_traced_memory()[1] < 2 * (limit + len(bomb)) + 2**16
    finally:
        tracemalloc.stop()


def test_inflater_goes_on_behind_final_blocks() -> None:
    """RFC 7692 section 7.2.1: they may stand anywhere."""
    inflater = Inflater(15, takeover=True)
    messages = [text_of(3000, seed) for seed in range(20)]
    data = final_blocks(*messages, b"", b"end")
    assert inflate_all(inflater, data, 100_000, last=True) == b"".join(messages) + b"end"
    assert inflate_all(inflater, Peer().compress(b"next"), 100, last=True) == b"next"
    assert len(inflate_all(inflater, data, 50_000, last=True)) == 50_001


@pytest.mark.parametrize("size", range(65_530, 65_540))
def test_inflater_goes_on_behind_a_final_block_that_it_has_left_in_the_middle(size: int) -> None:
    """It gives 64 KiB at a time, so what is left of the last block's content comes by itself."""
    message = b"x" * size
    data = final_blocks(message, b"end")
    assert inflate_all(Inflater(15, takeover=True), data, 2**20, last=True) == message + b"end"


_COSTLY: Final = {
    "a bomb": Peer(level=9).compress(bytes(2**22)),
    "noise": Peer().compress(random.Random(1).randbytes(2**20)),
    "final blocks": final_blocks(*[text_of(100)] * 2**10),
    "empty final blocks": final_blocks(*[b""] * 2**14),
    "empty blocks": bytes.fromhex("000000ffff") * 2**14,
}


@pytest.mark.parametrize("data", _COSTLY.values(), ids=_COSTLY)
def test_inflater_does_a_bounded_piece_of_work_at_a_time(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12: one call of zlib's, which is offered little and gives little.

    Behind a final block zlib copies all that it was offered, so that is bounded, too.
    """
    calls = count_inflating(monkeypatch)
    inflater = Inflater(15, takeover=True)
    inflater.put(data, last=True)
    steps = 0
    while inflater.pending:
        inflater.inflate(2**22)
        steps += 1
        assert len(calls) == steps
    assert max(call.offered for call in calls) <= 8192
    assert max(call.given for call in calls) <= 65_536
