"""Frames, against RFC 6455 section 5 and against a second decoder that is too simple to be wrong.

What a stream of bytes stands for is one list of events: a message is itself, a control frame is
a `Frame`, in the order in which they came.
"""

from __future__ import annotations

import random
import re
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    close_frame,
    compressed,
    count_inflating,
    encode,
    final_blocks,
    inflated,
    split_frame,
)
from trioweb import Deflate
from trioweb._close_codes import CloseCode
from trioweb._errors import FrameError
from trioweb._protocol import _decoder, _frames, _frames_python
from trioweb._protocol._decoder import WORK_PER_FEED, Decoder
from trioweb._protocol._deflate import Compressor, Inflater
from trioweb._protocol._frames import (
    SERVER_FORM,
    WireForm,
    check_close,
    decode_close,
    encode_close,
    encode_frame,
    encode_message,
)

CONTINUATION: Final = 0x0
Event = str | bytes | Frame


# The loops over bytes are in C or, where that was not built, in Python: all here holds with both.
@pytest.fixture(scope="module", autouse=True, params=["loops as built", "loops in Python"])
def _loops(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "loops in Python":
            patch.setattr(_frames, "mask", _frames_python.mask)
            patch.setattr(_decoder, "mask", _frames_python.mask)
            patch.setattr(_decoder, "take_messages", _frames_python.take_messages)
        yield


_LIMIT: Final = 200  # bytes in a message, where a test does not say otherwise


class Reader:
    """A decoder, and in order what came out of it."""

    def __init__(
        self,
        *,
        masked: bool = False,
        max_message_bytes: int = _LIMIT,
        inflater: Inflater | None = None,
        work_per_feed: int = WORK_PER_FEED,
    ) -> None:
        self.events: list[Any] = []
        self.fault: CloseCode | None = None
        self._decoder = Decoder(
            masked=masked,
            max_message_bytes=max_message_bytes,
            on_control=self._on_control,
            inflater=inflater,
            work_per_feed=work_per_feed,
        )

    def _on_control(self, opcode: int, payload: bytes) -> None:
        self.events.append(Frame(opcode, payload))

    def feed(self, data: bytes) -> None:
        """Feed *data*, unless a fault or a Close has been the end already."""
        if self.fault is not None or self._closed():
            return
        try:
            more = self._decoder.feed(data, self.events)
            while more and not self._closed():
                more = self._decoder.feed(b"", self.events)
        except FrameError as exc:
            self.fault = exc.code

    def _closed(self) -> bool:
        return any(isinstance(event, Frame) and event.opcode == CLOSE for event in self.events)

    @property
    def outcome(self) -> tuple[list[Event], CloseCode | None]:
        return self.events, self.fault


def read(data: bytes, **options: Any) -> tuple[list[Event], CloseCode | None]:
    reader = Reader(**options)
    reader.feed(data)
    return reader.outcome


def read_in_pieces(
    data: bytes, cuts: Iterable[int], **options: Any
) -> tuple[list[Event], CloseCode | None]:
    reader = Reader(**options)
    for start, stop in pairwise([0, *sorted(cuts), len(data)]):
        reader.feed(data[start:stop])
    return reader.outcome


def read_simply(
    data: bytes, *, masked: bool, max_message_bytes: int
) -> tuple[list[Event], CloseCode | None]:
    """The second decoder: all bytes at hand, one rule of RFC 6455 after the other."""
    events: list[Event] = []
    opcode_under_way, size, text_or_bytes = 0, 0, b""
    while len(data) >= 2:
        fin, rsv, opcode = bool(data[0] & 0x80), data[0] & 0x70, data[0] & 0x0F
        is_masked, length = bool(data[1] & 0x80), data[1] & 0x7F
        control = opcode >= 8
        if rsv or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            return events, CloseCode.PROTOCOL_ERROR
        if is_masked is not masked:
            return events, CloseCode.PROTOCOL_ERROR
        if control and (not fin or length > 125):
            return events, CloseCode.PROTOCOL_ERROR
        if not control and (opcode == CONTINUATION) is not bool(opcode_under_way):
            return events, CloseCode.PROTOCOL_ERROR
        wide = {126: 2, 127: 8}.get(length, 0)
        start = 2 + wide + 4 * masked
        if len(data) < start:
            break
        if wide:
            length = int.from_bytes(data[2 : 2 + wide], "big")
            if length < {2: 126, 8: 65536}[wide] or length >= 2**63:
                return events, CloseCode.PROTOCOL_ERROR
        key = data[start - 4 : start] if masked else bytes(4)
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[start : start + length]))
        whole = len(payload) == length
        data = data[start + length :]
        if control:
            if whole:
                events.append(Frame(opcode, payload))
                if opcode == CLOSE:
                    return events, None
            continue
        size += length or (0 if fin else 64)
        if size > max_message_bytes:
            return events, CloseCode.MESSAGE_TOO_BIG
        opcode_under_way = opcode or opcode_under_way
        text_or_bytes += payload
        complete = whole and fin
        if opcode_under_way == TEXT:
            try:
                text_or_bytes.decode()
            except UnicodeDecodeError as exc:
                # Python's incremental decoder, unlike this one, tells of a surrogate only when
                # it has all three bytes of it.
                surrogate = re.fullmatch(rb"\xed[\xa0-\xbf]", text_or_bytes[exc.start :])
                unfinished = surrogate or exc.reason == "unexpected end of data"
                if complete or not unfinished:
                    return events, CloseCode.INVALID_PAYLOAD
        if complete:
            events.append(text_or_bytes.decode() if opcode_under_way == TEXT else text_or_bytes)
            opcode_under_way, size, text_or_bytes = 0, 0, b""
    return events, None


# What peers send.

_controls = st.builds(Frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def _fragmented(draw: st.DrawFn) -> tuple[Event, list[Frame]]:
    """A message and its frames, with control frames in between."""
    message: str | bytes = draw(st.text(max_size=40) | st.binary(max_size=140))
    opcode = TEXT if isinstance(message, str) else BINARY
    payload = message.encode() if isinstance(message, str) else message
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    pieces = [payload[start:stop] for start, stop in pairwise([0, *cuts, len(payload)])]
    frames = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        frames.append(Frame(CONTINUATION if number else opcode, piece, last))
        if not last:
            frames += draw(st.lists(_controls, max_size=1))
    return message, frames


_unit = _fragmented() | _controls.map(lambda frame: (frame, [frame]))
_units = st.lists(_unit, max_size=5)
_cuts = st.lists(st.integers(0, 600), max_size=12)
_sides = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])


def _events(units: Sequence[tuple[Event, list[Frame]]]) -> list[Event]:
    """What the frames of *units* stand for: a message comes when its last frame does."""
    events: list[Event] = []
    for event, frames in units:
        events += [frame for frame in frames if frame.opcode & 0x0F >= CLOSE and frame is not event]
        events.append(event)
    return events


def _wire(frames: Iterable[Frame], *, masked: bool) -> bytes:
    return b"".join(encode(frame, masked=masked) for frame in frames)


# Any split of the bytes.


@_sides
@given(units=_units, cuts=_cuts, work=st.integers(1, 20))
@settings(deadline=None)
def test_decoder_gives_the_same_messages_and_controls_however_the_bytes_are_split(
    masked: bool, units: list[tuple[Event, list[Frame]]], cuts: list[int], work: int
) -> None:
    data = _wire((frame for _, frames in units for frame in frames), masked=masked)
    options = {"masked": masked, "max_message_bytes": 1000}
    cuts = [cut for cut in cuts if cut <= len(data)]
    assert read(data, **options) == (_events(units), None)
    assert read_in_pieces(data, cuts, **options) == (_events(units), None)
    assert read_in_pieces(data, range(len(data)), **options) == (_events(units), None)
    assert read_in_pieces(data, cuts, **options, work_per_feed=work) == (_events(units), None)


@_sides
@pytest.mark.parametrize("size", [0, 1, 5, 124, 125, 126, 127, 300, 65535, 65536, 65600])
def test_decoder_joins_a_message_cut_by_a_chunk_at_every_position(size: int, masked: bool) -> None:
    message = bytes(i % 251 for i in range(size))
    data = _wire([Frame(BINARY, message), Frame(PING, b"!")], masked=masked)
    # Every place where a rule begins or ends, and where the mask's turn matters.
    places = {*range(min(20, len(data))), *range(max(0, len(data) - 20), len(data) + 1)}
    for place in places:
        events, fault = read_in_pieces(data, [place], masked=masked, max_message_bytes=2**20)
        assert events == [message, Frame(PING, b"!")], place
        assert fault is None


# Corruption.


@_sides
@given(
    units=st.lists(_unit, min_size=1, max_size=4),
    data=st.data(),
    cuts=_cuts,
)
@settings(deadline=None)
def test_decoder_agrees_with_the_simple_one_when_a_header_is_corrupted(
    masked: bool,
    units: list[tuple[Event, list[Frame]]],
    data: st.DataObject,
    cuts: list[int],
) -> None:
    frames = [encode(frame, masked=masked) for _, frames in units for frame in frames]
    victim = data.draw(st.integers(0, len(frames) - 1), label="frame")
    frame = bytearray(frames[victim])
    place = data.draw(st.integers(0, min(9, len(frame) - 1)), label="byte")
    frame[place] = data.draw(st.integers(0, 255), label="value")
    frames[victim] = bytes(frame)
    _agree(b"".join(frames), masked, cuts)


@_sides
@given(data=st.binary(max_size=60), cuts=_cuts)
@settings(deadline=None)
def test_decoder_agrees_with_the_simple_one_on_rubbish(
    masked: bool, data: bytes, cuts: list[int]
) -> None:
    _agree(data, masked, cuts)


@_sides
@given(
    frames=st.lists(
        st.builds(
            Frame,
            st.sampled_from([CONTINUATION, CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]),
            st.binary(max_size=20),
            st.booleans(),
        ),
        max_size=8,
    ),
    cuts=_cuts,
)
@settings(deadline=None)
def test_decoder_agrees_with_the_simple_one_on_any_order_of_frames(
    masked: bool, frames: list[Frame], cuts: list[int]
) -> None:
    _agree(_wire(frames, masked=masked), masked, cuts)


# Sizes on both sides of where the form of a length, the way to mask or the way to make text of
# bytes changes, and others.
_long_sizes = st.sampled_from(
    [124, 125, 126, 127, 511, 512, 513, 4095, 4096, 4097, 65535, 65536]
) | st.integers(126, 66_000)


@_sides
@given(
    size=_long_sizes,
    unit=st.text(min_size=1, max_size=9) | st.binary(min_size=1, max_size=9),
    corrupt=st.none() | st.tuples(st.integers(0), st.integers(0, 255)),
    fin=st.booleans(),
    room=st.sampled_from([-1, 0, 1, 100_000]),
    missing=st.just(0) | st.integers(0, 66_000),
    cuts=st.lists(st.integers(0, 66_000), max_size=4),
)
@settings(deadline=None)
def test_decoder_agrees_with_the_simple_one_on_long_frames(
    masked: bool,
    size: int,
    unit: str | bytes,
    corrupt: tuple[int, int] | None,
    fin: bool,
    room: int,
    missing: int,
    cuts: list[int],
) -> None:
    opcode = TEXT if isinstance(unit, str) else BINARY
    unit = unit.encode() if isinstance(unit, str) else unit
    # A text may end within a character.
    payload = bytearray((unit * (size // len(unit) + 1))[:size])
    if corrupt is not None:
        place, value = corrupt
        payload[place % size] = value
    frames = [Frame(opcode, bytes(payload), fin), Frame(CONTINUATION, b"end")]
    data = _wire(
        [Frame(TEXT, b"one"), *frames[: 1 if fin else 2], Frame(TEXT, b"two")], masked=masked
    )
    data = data[: len(data) - missing] if missing < len(data) else data
    options: dict[str, Any] = {"masked": masked, "max_message_bytes": size + room}
    expected = read_simply(data, **options)
    assert read(data, **options) == expected
    assert read_in_pieces(data, [cut for cut in cuts if cut <= len(data)], **options) == expected


def _agree(data: bytes, masked: bool, cuts: Sequence[int]) -> None:
    expected = read_simply(data, masked=masked, max_message_bytes=_LIMIT)
    assert expected[1] in (None, 1002, 1007, 1009)
    assert read(data, masked=masked) == expected
    assert read_in_pieces(data, [cut for cut in cuts if cut <= len(data)], masked=masked) == (
        expected
    )
    assert read_in_pieces(data, range(len(data)), masked=masked) == expected
    assert read(data, masked=masked, work_per_feed=1) == expected


# RFC 6455 section 5, rule by rule; what a server sends.

_TOO_BIG = (b"\x7e" + (_LIMIT + 1).to_bytes(2, "big")).hex()

_RULES = {
    "5.2 RSV1 set": ("c1 00", 1002),
    "5.2 RSV2 set": ("a1 00", 1002),
    "5.2 RSV3 set": ("91 00", 1002),
    "5.2 RSV1 set on a control frame": ("c9 00", 1002),
    **{f"5.2 reserved opcode {code:x}": (f"8{code:x} 00", 1002) for code in (*range(3, 8), 0xB)},
    **{f"5.2 reserved control opcode {code:x}": (f"8{code:x} 00", 1002) for code in range(11, 16)},
    "5.1 a server must not mask": ("81 81 01020304 60", 1002),
    "5.1 a server must not mask, even nothing": ("81 80 00000000", 1002),
    "5.1 a server must not mask a control frame": ("89 80 00000000", 1002),
    "5.2 16-bit length for 125": ("82 7e 007d", 1002),
    "5.2 16-bit length for 125 that are all there": ("82 7e 007d" + "61" * 125, 1002),
    "5.2 16-bit length for 0": ("82 7e 0000", 1002),
    "5.2 64-bit length for 65535": ("82 7f 000000000000ffff", 1002),
    "5.2 64-bit length for 0": ("82 7f 0000000000000000", 1002),
    "5.2 most significant bit of a length": ("82 7f 8000000000000000", 1002),
    "5.2 all bits of a length": ("82 7f ffffffffffffffff", 1002),
    "5.4 continuation of nothing": ("80 00", 1002),
    "5.4 continuation of nothing, unfinished": ("00 01 61", 1002),
    "5.4 continuation after a complete message": ("81 01 61 80 01 62", 1002),
    "5.4 continuation after a fragmented message": ("01 01 61 80 00 80 00", 1002),
    "5.4 text inside a message": ("01 01 61 81 01 62", 1002),
    "5.4 binary inside a message": ("01 01 61 82 01 62", 1002),
    "5.4 text inside a binary message": ("02 00 01 00", 1002),
    "5.5 fragmented close": ("08 00", 1002),
    "5.5 fragmented ping": ("09 00", 1002),
    "5.5 fragmented pong": ("0a 00", 1002),
    "5.5 ping of 126 bytes": ("89 7e 007e", 1002),
    "5.5 pong of 126 bytes": ("8a 7e 007e", 1002),
    "5.5 close of 126 bytes": ("88 7e 007e", 1002),
    "5.5 ping of 64 KiB": ("89 7f 0000000000010000", 1002),
    "5.6 text that is not UTF-8": ("81 01 ff", 1007),
    "5.6 text that ends in mid-character": ("81 02 e282", 1007),
    "5.6 text in fragments that ends in mid-character": ("01 02 e282 80 00", 1007),
    "5.6 text in fragments with a surrogate": ("01 01 ed 80 02 a080", 1007),
    "10.4 a message over the limit": ("82" + _TOO_BIG, 1009),
    "10.4 a message over the limit in fragments": ("02 01 61 00 7e 00c8", 1009),
    "10.4 a declared 2**62 bytes": ("82 7f 4000000000000000", 1009),
    "10.4 a declared 2**63 - 1 bytes": ("82 7f 7fffffffffffffff", 1009),
}


@pytest.mark.parametrize(("data", "code"), _RULES.values(), ids=_RULES)
def test_decoder_answers_a_broken_rule_with_its_close_code(data: str, code: int) -> None:
    before = encode(Frame(TEXT, b"before"), masked=False)
    wire = before + bytes.fromhex(data)
    behind = encode(Frame(TEXT, b"behind"), masked=False)
    for events, fault in (
        read(wire),
        read(wire + behind),
        read_in_pieces(wire, range(len(wire))),
    ):
        assert fault == code
        assert "before" in events
        assert "behind" not in events


@pytest.mark.parametrize(
    "head", ["81 00", "81 05 68", "89 00", "82 7e 0100", "82 7f 0000000000010000"]
)
def test_decoder_refuses_a_frame_that_a_client_has_not_masked(head: str) -> None:
    assert read(bytes.fromhex(head), masked=True) == ([], 1002)


def test_decoder_takes_a_message_of_exactly_the_limit() -> None:
    for size, fault in ((100, None), (101, 1009)):
        whole = encode(Frame(BINARY, bytes(size)), masked=False)
        halves = _wire(
            [Frame(BINARY, bytes(60), False), Frame(CONTINUATION, bytes(size - 60))], masked=False
        )
        for wire in (whole, halves):
            events, found = read(wire, max_message_bytes=100)
            assert found == fault
            assert events == ([] if fault else [bytes(size)])


def test_decoder_counts_each_message_against_the_limit_by_itself() -> None:
    frames = [Frame(BINARY, bytes(60), False), Frame(CONTINUATION, bytes(40))] * 5
    assert read(_wire(frames, masked=False), max_message_bytes=100) == ([bytes(100)] * 5, None)


# What a peer may cost.


@pytest.mark.parametrize("length", [2**21, 2**40, 2**62])
def test_decoder_refuses_a_declared_length_before_it_allocates_anything(length: int) -> None:
    """Invariant 8: memory is bounded by configuration, not by what a peer announces."""
    head = b"\x82\x7f" + length.to_bytes(8, "big")
    reader = Reader(max_message_bytes=2**20)
    tracemalloc.start()
    try:
        reader.feed(head + bytes(1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.outcome == ([], 1009)
    assert peak < 32 * 2**10


def test_decoder_allocates_what_has_arrived_not_what_was_announced() -> None:
    """Invariant 8, where the limit would allow the length."""
    reader = Reader(max_message_bytes=2**62)
    tracemalloc.start()
    try:
        reader.feed(b"\x82\x7f" + (2**40).to_bytes(8, "big") + bytes(1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.outcome == ([], None)
    assert peak < 32 * 2**10


@pytest.mark.parametrize("first", [b"\x01\x00", b"\x02\x00"], ids=["text", "binary"])
def test_decoder_ends_a_million_empty_fragments_as_a_message_too_big(first: bytes) -> None:
    reader = Reader(max_message_bytes=2**20)
    reader.feed(first + b"\x00\x00" * 1_000_000)
    assert reader.outcome == ([], 1009)


def test_decoder_takes_empty_fragments_that_are_few() -> None:
    frames = [Frame(TEXT, b"", False), Frame(CONTINUATION, b"a", False)]
    frames += [Frame(CONTINUATION, b"", False), Frame(CONTINUATION, b"")]
    assert read(_wire(frames, masked=False)) == (["a"], None)


def test_feed_stops_after_so_much_work_and_goes_on_without_data() -> None:
    """Invariant 12: a chunk full of tiny frames does not hold the scheduler."""
    events: list[Any] = []
    decoder = Decoder(
        masked=False,
        max_message_bytes=_LIMIT,
        on_control=lambda opcode, payload: events.append(Frame(opcode, payload)),
        work_per_feed=100,
    )
    # A control frame costs two.
    frames = [Frame(PING, b"%d" % number) for number in range(50)]
    frames += [Frame(BINARY, b"%d" % number) for number in range(105)]
    data = _wire(frames, masked=False)

    assert decoder.feed(data[:-1], events)
    assert len(events) == 50
    assert decoder.feed(b"", events)
    assert len(events) == 150
    assert not decoder.feed(b"", events)
    assert len(events) == 154
    assert not decoder.feed(data[-1:], events)
    assert events[50:] == [frame.payload for frame in frames[50:]]


def test_what_is_done_with_a_frame_counts_as_work_of_its_feed() -> None:
    class Answered(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            decoder.spend(30)

    events = Answered()
    decoder = Decoder(
        masked=False,
        max_message_bytes=_LIMIT,
        on_control=lambda opcode, payload: events.append(Frame(opcode, payload)),
        work_per_feed=100,
    )
    frames = [Frame(PING, b"%d" % number) for number in range(9)]
    frames += [Frame(TEXT, b"%d" % number) for number in range(9)]
    more, data = True, _wire(frames, masked=False)
    while more:
        before = len(events)
        more, data = decoder.feed(data, events), b""
        assert len(events) - before <= 4
    assert len(events) == 18


def test_feed_takes_new_data_while_there_is_more_to_decode() -> None:
    messages: list[Any] = []
    decoder = Decoder(masked=True, max_message_bytes=_LIMIT, on_control=lambda *_: None)
    frame = encode(Frame(TEXT, b"x"), masked=True)
    data = frame * WORK_PER_FEED + frame[:3]
    assert decoder.feed(data, messages)
    assert not decoder.feed(frame[3:] + frame, messages)
    assert messages == ["x"] * (WORK_PER_FEED + 2)


# Text.

# Sequences that are no UTF-8, and where the first bad byte stands.
_BAD_TEXT = {
    "no first byte": (b"\x80", 0),
    "never a byte": (b"\xff", 0),
    "overlong, two bytes": (b"\xc0\x80", 0),
    "overlong, three bytes": (b"\xe0\x80\x80", 1),
    "overlong, four bytes": (b"\xf0\x80\x80\x80", 1),
    "surrogate": (b"\xed\xa0\x80", 2),  # Python looks at the whole of it first
    "beyond U+10FFFF": (b"\xf4\x90\x80\x80", 1),
    "five bytes": (b"\xf8\x88\x80\x80\x80", 0),
    "second byte missing": (b"\xc3(", 1),
    "third byte missing": (b"\xe2\x82(", 2),
    "fourth byte missing": (b"\xf0\x9f\x92(", 3),
}


@_sides
@pytest.mark.parametrize("fin", [True, False], ids=["whole", "fragment"])
@pytest.mark.parametrize(("sequence", "place"), _BAD_TEXT.values(), ids=_BAD_TEXT)
def test_decoder_fails_at_the_first_bad_byte_of_an_unfinished_text(
    sequence: bytes, place: int, fin: bool, masked: bool
) -> None:
    """RFC 6455 section 8.1: the frame announces far more than ever comes."""
    payload = "grüße ".encode() + sequence + bytes(100_000)
    data = encode(Frame(TEXT, payload, fin), masked=masked)
    bad = len(data) - len(payload) + len("grüße ".encode()) + place
    reader = Reader(masked=masked, max_message_bytes=2**20)
    for start in range(bad):
        reader.feed(data[start : start + 1])
    assert not reader.fault
    reader.feed(data[bad : bad + 1])
    assert reader.fault == 1007
    # All in one chunk that does not hold the whole frame.
    assert read(data[: bad + 1], masked=masked, max_message_bytes=2**20) == ([], 1007)


def test_decoder_takes_a_character_split_over_fragments_at_every_byte() -> None:
    text = "a£€𐍈\U0010ffff"
    payload = text.encode()
    for cut in range(len(payload) + 1):
        frames = [
            Frame(TEXT, payload[:cut], False),
            Frame(PING),
            Frame(CONTINUATION, payload[cut:]),
        ]
        assert read(_wire(frames, masked=False)) == ([Frame(PING), text], None)


def test_decoder_does_not_ask_binary_messages_for_utf8() -> None:
    frames = [Frame(BINARY, b"\xff", False), Frame(CONTINUATION, b"\xfe"), Frame(BINARY, b"\xc0")]
    assert read(_wire(frames, masked=False)) == ([b"\xff\xfe", b"\xc0"], None)


# Close.


@_sides
def test_decoder_ignores_what_its_chunk_holds_behind_a_close(masked: bool) -> None:
    """RFC 6455 section 5.5.1; rubbish and messages alike."""
    close = encode(close_frame(1000), masked=masked)
    for behind in (encode(Frame(TEXT, b"late"), masked=masked), b"\xff" * 50, b"\x81"):
        events: list[Any] = []
        decoder = Decoder(
            masked=masked,
            max_message_bytes=_LIMIT,
            on_control=lambda opcode, payload: events.append(Frame(opcode, payload)),  # noqa: B023
        )
        assert not decoder.feed(close + behind, events)
        assert events == [close_frame(1000)]


def test_decoder_lets_an_error_of_on_control_out_with_the_messages_before_it() -> None:
    def refuse(opcode: int, payload: bytes) -> None:
        decode_close(payload)

    messages: list[Any] = []
    decoder = Decoder(masked=False, max_message_bytes=_LIMIT, on_control=refuse)
    data = _wire([Frame(TEXT, b"one"), close_frame(1005), Frame(TEXT, b"two")], masked=False)
    with pytest.raises(FrameError) as caught:
        decoder.feed(data, messages)
    assert caught.value.code == 1002
    assert messages == ["one"]


_ON_THE_WIRE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_decode_close_takes_exactly_the_codes_that_may_be_sent() -> None:
    """RFC 6455 section 7.4 and the IANA registry."""
    for code in range(65536):
        payload = code.to_bytes(2, "big")
        if code in _ON_THE_WIRE:
            assert decode_close(payload) == (code, "")
        else:
            with pytest.raises(FrameError) as caught:
                decode_close(payload)
            assert caught.value.code == 1002


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", (1005, "")),
        (b"\x03\xe8", (1000, "")),
        (b"\x03\xe9going", (1001, "going")),
        (b"\x13\x87\xe2\x82\xac", (4999, "€")),
        (b"\x03\xe8" + b"x" * 123, (1000, "x" * 123)),
    ],
)
def test_decode_close_gives_code_and_reason(payload: bytes, expected: tuple[int, str]) -> None:
    assert decode_close(payload) == expected


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (b"\x00\x00", 1002),
        (b"\x03\xed", 1002),
        (b"\x03\xee bye", 1002),
        (b"\xff\xff", 1002),
        (b"\x03\xe8\xff", 1007),
        (b"\x03\xe8\xe2\x82", 1007),
        (b"\x03\xe8" + b"x" * 122 + b"\xc3", 1007),
    ],
)
def test_decode_close_refuses_what_a_close_must_not_say(payload: bytes, code: int) -> None:
    with pytest.raises(FrameError) as caught:
        decode_close(payload)
    assert caught.value.code == code


@given(
    code=st.sampled_from(sorted(_ON_THE_WIRE)), reason=st.text(max_size=30), masked=st.booleans()
)
def test_encode_close_is_what_decode_close_reads(code: int, reason: str, masked: bool) -> None:
    check_close(code, reason)
    split = split_frame(encode_close(code, reason, masked=masked), masked=masked)
    assert split is not None
    frame, behind = split
    assert (frame.opcode, frame.fin, behind) == (CLOSE, True, b"")
    assert decode_close(frame.payload) == (code, reason)


def test_encode_close_sends_no_payload_for_1005() -> None:
    assert encode_close(1005, "", masked=False) == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, 2**20])
def test_check_close_refuses_a_code_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code}: must be 1000-1003"):
        check_close(code, "")


@pytest.mark.parametrize("code", ["1000", 1000.0, None])
def test_check_close_refuses_a_code_that_is_no_number(code: Any) -> None:
    with pytest.raises(ValueError, match=r"close code .*: must be 1000-1003"):
        check_close(code, "")


def test_check_close_holds_a_reason_to_123_bytes_of_utf8() -> None:
    check_close(1000, "x" * 123)
    check_close(1000, "€" * 41)
    for reason, size in (("x" * 124, 124), ("€" * 41 + "x", 124)):
        with pytest.raises(ValueError, match=f"close reason of {size} bytes: at most 123"):
            check_close(1000, reason)
    with pytest.raises(TypeError, match="close reason b'bytes': must be a str"):
        check_close(1000, b"bytes")  # type: ignore[arg-type]


# Encoding.


@_sides
@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
def test_encode_frame_uses_the_shortest_length(size: int, fin: bool, masked: bool) -> None:
    payload = bytes(i % 256 for i in range(size))
    data = encode_frame(BINARY, payload, masked=masked, fin=fin)
    head = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(data) == head + 4 * masked + size
    assert split_frame(data, masked=masked) == (Frame(BINARY, payload, fin), b"")


def test_encode_frame_masks_with_a_new_key_each_time() -> None:
    keys = {encode_frame(TEXT, b"same", masked=True)[2:6] for _ in range(20)}
    assert len(keys) > 15


@_sides
@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("", TEXT, b""),
        ("grüße", TEXT, "grüße".encode()),
        ("nul\0", TEXT, b"nul\0"),
        (b"\xff\x00", BINARY, b"\xff\x00"),
        (bytearray(b"array"), BINARY, b"array"),
        (memoryview(b"view"), BINARY, b"view"),
        (memoryview(b"a-b-c-")[::2], BINARY, b"abc"),
        (memoryview(b"abcdefgh").cast("I"), BINARY, b"abcdefgh"),
    ],
)
def test_encode_message_makes_text_of_str_and_binary_of_bytes(
    message: Any, opcode: int, payload: bytes, masked: bool
) -> None:
    data = encode_message(message, WireForm(masked))
    assert split_frame(data, masked=masked) == (Frame(opcode, payload), b"")
    assert read(data, masked=masked)[0] == [payload.decode() if opcode == TEXT else payload]


@pytest.mark.parametrize("message", [None, 1, 1.5, ["a"], {"a": 1}])
def test_encode_message_refuses_anything_else(message: Any) -> None:
    name = type(message).__name__
    with pytest.raises(TypeError, match=f"a message must be str or bytes, not {name}"):
        encode_message(message, SERVER_FORM)


def test_encode_message_refuses_a_lone_surrogate() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        encode_message("\ud800", SERVER_FORM)


# Compressed messages (RFC 7692 section 6).


def _inflater() -> Inflater:
    return Inflater(15, takeover=False)


@st.composite
def _maybe_compressed(draw: st.DrawFn) -> tuple[Event, list[Frame]]:
    """As `_fragmented`, and in half of the cases compressed first."""
    message, frames = draw(_fragmented())
    if draw(st.booleans()):
        data = [frame for frame in frames if frame.opcode < CLOSE]
        payload = compressed(b"".join(frame.payload for frame in data))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        frames = [
            Frame(CONTINUATION if start else data[0].opcode | RSV1, payload[start:stop], False)
            for start, stop in pairwise([0, *(cut for cut in cuts if cut), len(payload)])
        ]
        frames[-1] = Frame(frames[-1].opcode, frames[-1].payload)
        if len(frames) > 1:
            frames[1:1] = draw(st.lists(_controls, max_size=1))
    return message, frames


@_sides
@given(units=st.lists(_maybe_compressed(), max_size=5), cuts=_cuts)
@settings(deadline=None)
def test_decoder_inflates_what_is_compressed_however_the_bytes_are_split(
    masked: bool, units: list[tuple[Event, list[Frame]]], cuts: list[int]
) -> None:
    data = _wire((frame for _, frames in units for frame in frames), masked=masked)
    options: dict[str, Any] = {"masked": masked, "max_message_bytes": 1000}
    expected = (_events(units), None)
    assert read(data, inflater=_inflater(), **options) == expected
    cuts = [cut for cut in cuts if cut < len(data)]
    assert read_in_pieces(data, cuts, inflater=_inflater(), **options) == expected


@dataclass(frozen=True)
class _Much:
    """A compressed message that takes zlib several steps; few words for what is long.

    Args:
        unit, times: the message is the one so many times; or noise, a quarter as long, so that
            there is more to take than to give.
        blocks: where final blocks end in it; without any there are none.
        cuts: where its frames end.
    """

    unit: str | bytes
    times: int
    is_noise: bool
    blocks: list[int]
    cuts: list[int]

    def unit_of_events(self) -> tuple[Event, list[Frame]]:
        message: str | bytes = self.unit * self.times
        data = message.encode() if isinstance(message, str) else message
        if self.is_noise:
            message = data = random.Random(self.unit).randbytes(len(data) // 4)
        payload = compressed(data)
        if self.blocks:
            payload = final_blocks(*_pieces(data, self.blocks))
        opcode = TEXT if isinstance(message, str) else BINARY
        pieces = _pieces(payload, self.cuts)
        return message, [
            Frame(CONTINUATION if number else opcode | RSV1, piece, number == len(pieces) - 1)
            for number, piece in enumerate(pieces)
        ]


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


_places = st.lists(st.integers(0, 100_000), max_size=3)
_much = st.builds(
    _Much,
    st.text(min_size=1, max_size=9) | st.binary(min_size=1, max_size=9),
    st.integers(1, 60_000),
    st.booleans(),
    _places,
    _places,
)


@given(
    much=st.lists(_much | _unit, max_size=3),
    cuts=st.lists(st.integers(0, 200_000), max_size=5),
    work=st.integers(1, 2000),
    corrupt=st.none() | st.tuples(st.integers(0, 200_000), st.integers(0, 255)),
)
@settings(deadline=None, max_examples=50)
def test_decoder_gives_the_same_wherever_it_stops(
    much: list[_Much | tuple[Event, list[Frame]]],
    cuts: list[int],
    work: int,
    corrupt: tuple[int, int] | None,
) -> None:
    units = [unit.unit_of_events() if isinstance(unit, _Much) else unit for unit in much]
    wire = bytearray(_wire((frame for _, frames in units for frame in frames), masked=False))
    if wire and corrupt is not None:
        wire[corrupt[0] % len(wire)] = corrupt[1]
    data = bytes(wire)
    options: dict[str, Any] = {"max_message_bytes": 2**20}
    at_once = read(data, inflater=_inflater(), work_per_feed=2**40, **options)
    if corrupt is None:
        assert at_once == (_events(units), None)
    cuts = [cut for cut in cuts if cut < len(data)]
    stopped = read_in_pieces(data, cuts, inflater=_inflater(), work_per_feed=work, **options)
    assert stopped == at_once


_HELLO: Final = compressed(b"Hello")
_RESERVED_BITS: Final = {
    "on a continuation": [Frame(TEXT | RSV1, _HELLO[:2], False), Frame(RSV1, _HELLO[2:])],
    "on the continuation of a plain message": [Frame(TEXT, b"", False), Frame(RSV1, _HELLO)],
    "on a ping": [Frame(PING | RSV1, _HELLO)],
    "on a Close": [Frame(CLOSE | RSV1)],
    "with another one": [Frame(TEXT | RSV1 | 0x20, _HELLO)],
    "another one": [Frame(TEXT | 0x10, _HELLO)],
    "on an unknown opcode": [Frame(0x3 | RSV1, _HELLO)],
}


@pytest.mark.parametrize("frames", _RESERVED_BITS.values(), ids=_RESERVED_BITS)
def test_decoder_refuses_the_bit_for_compression_anywhere_else(frames: list[Frame]) -> None:
    assert read(_wire(frames, masked=False), inflater=_inflater()) == ([], 1002)


def test_decoder_refuses_compression_that_was_not_agreed_upon() -> None:
    assert read(_wire([Frame(TEXT | RSV1, _HELLO)], masked=False)) == ([], 1002)


@pytest.mark.parametrize("size", [_LIMIT, _LIMIT + 1, 10**6])
@pytest.mark.parametrize("pieces", [1, 2, 7], ids=["whole", "in two", "in seven"])
def test_decoder_counts_the_size_of_a_compressed_message_inflated(size: int, pieces: int) -> None:
    payload = compressed(b"x" * size)
    cuts = [len(payload) * i // pieces for i in range(pieces + 1)]
    parts = [payload[start:stop] for start, stop in pairwise(cuts)]
    frames = [
        Frame(CONTINUATION if i else BINARY | RSV1, part, i == pieces - 1)
        for i, part in enumerate(parts)
    ]
    data = _wire([*frames, Frame(TEXT, b"next")], masked=False)
    expected = ([b"x" * size, "next"], None) if size <= _LIMIT else ([], 1009)
    assert read(data, inflater=_inflater()) == expected


def test_decoder_takes_what_compression_has_made_larger() -> None:
    noise = random.Random(1).randbytes(_LIMIT)
    payload = compressed(noise)
    assert len(payload) > _LIMIT
    data = _wire([Frame(BINARY | RSV1, payload)], masked=False)
    assert read(data, inflater=_inflater()) == ([noise], None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc2\x7f" + (2**62).to_bytes(8, "big"),
        b"\x42\x00" + b"\x00\x00" * 1_000_000,
        # Empty blocks, which make no message.
        _wire([Frame(BINARY | RSV1, bytes.fromhex("000000ffff") * 1000)], masked=False),
        _wire(
            [Frame(BINARY | RSV1, b"", False)]
            + [Frame(CONTINUATION, b"\x00\x00\x00\xff\xff", False)] * 1000,
            masked=False,
        ),
    ],
    ids=["declared", "empty fragments", "empty blocks", "fragments of them"],
)
def test_decoder_refuses_a_compressed_message_that_only_takes_room(data: bytes) -> None:
    assert read(data, inflater=_inflater()) == ([], 1009)


@pytest.mark.parametrize("pieces", [1, 1000], ids=["whole", "fragmented"])
def test_a_bomb_is_refused_at_the_limit_and_costs_no_more_memory(pieces: int) -> None:
    limit = 2**20
    payload = compressed(bytes(2**26))
    size = len(payload) // pieces + 1
    parts = [payload[start : start + size] for start in range(0, len(payload), size)]
    frames = [
        Frame(CONTINUATION if i else TEXT | RSV1, part, i == len(parts) - 1)
        for i, part in enumerate(parts)
    ]
    data = _wire(frames, masked=False)
    chunks = [data[start : start + 2**16] for start in range(0, len(data), 2**16)]
    reader = Reader(max_message_bytes=limit, inflater=_inflater())
    tracemalloc.start()
    try:
        for chunk in chunks:
            reader.feed(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.outcome == ([], 1009)
    # What there is of the message, and what is joined to it.
    assert peak < 3 * limit


def test_feed_stops_when_much_was_inflated_and_goes_on_without_data() -> None:
    """Invariant 8: between two stops there is time to ask whether the inbox has room."""
    payload = compressed(bytes(2**20))
    data = _wire([Frame(BINARY | RSV1, payload)] * 40, masked=False)
    assert len(data) < 2**16
    messages: list[str | bytes] = []
    decoder = Decoder(
        masked=False,
        max_message_bytes=2**20,
        on_control=lambda opcode, payload: None,
        inflater=_inflater(),
    )
    more = True
    while more:
        before = len(messages)
        more, data = decoder.feed(data, messages), b""
        assert len(messages) <= before + 1
    assert messages == [bytes(2**20)] * 40


# Eight blocks of 90 bits, each with a code of its own and nothing that is encoded in it.
_EMPTY_BLOCKS: Final = bytes.fromhex(
    "04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a"
    "04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a"
)


def _parts(opcode: int, piece: bytes, count: int) -> bytes:
    frames = [Frame(opcode, piece, False)] + [Frame(CONTINUATION, piece, False)] * (count - 1)
    return _wire(frames, masked=False)


# Each kind of work that a peer can cause beside whole small messages; of each, one read's worth.
_FLOODS: Final = {
    "control frames": encode(Frame(PING), masked=False) * 60_000,
    "fragments": _parts(BINARY, b"x", 40_000),
    "fragments of text": _parts(TEXT, b"x", 40_000),
    "empty fragments": _parts(BINARY, b"", 60_000),
    "compressed messages": encode(Frame(TEXT | RSV1, compressed(b"x")), masked=False) * 20_000,
    "compressed fragments": _parts(BINARY | RSV1, bytes.fromhex("0208208000"), 17_000),
    "final blocks": _wire([Frame(BINARY | RSV1, final_blocks(b"x")[:-1] * 24_000)], masked=False),
    "empty final blocks": _wire([Frame(BINARY | RSV1, b"\x03\x00" * 60_000)], masked=False),
    "empty blocks": _wire([Frame(BINARY | RSV1, _EMPTY_BLOCKS * 1300)], masked=False),
    "a bomb": _wire([Frame(TEXT | RSV1, compressed(bytes(2**22)))], masked=False),
    "many bombs": encode(Frame(TEXT | RSV1, compressed(bytes(2**17))), masked=False) * 800,
}
_READ_BYTES: Final = 120 * 2**10
_each_flood = pytest.mark.parametrize(
    "data", [data[:_READ_BYTES] for data in _FLOODS.values()], ids=_FLOODS
)


class _Counting(Decoder):
    """A decoder that counts its frames, but for small whole messages."""

    frames = 0

    def _read_frame(self, *args: Any) -> int | None:
        self.frames += 1
        return super()._read_frame(*args)


def _flooded(kind: type[Decoder] = Decoder) -> Any:
    return kind(
        masked=False,
        max_message_bytes=2**22,
        on_control=lambda *_: None,
        inflater=Inflater(15, takeover=True),
    )


@_each_flood
def test_feed_counts_each_frame_each_call_of_zlib_and_what_it_takes_and_gives(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariants 12 and 13: what is counted is compared with what was done between two stops."""
    calls = count_inflating(monkeypatch)
    decoder = _flooded(_Counting)
    feeds, more = 0, True
    while more:
        more, data = decoder.feed(data, []), b""
        costs = [4 + call.taken // 16 + call.given // 128 for call in calls]
        # The last step may be one too many.
        assert 2 * decoder.frames + sum(costs) - max(costs, default=2) < WORK_PER_FEED
        feeds += 1
        calls.clear()
        decoder.frames = 0
    assert feeds > 5


def _longest_feed(data: bytes) -> float:
    """CPU seconds that the longest feed takes, at the best of several trials."""
    trials = []
    for _ in range(5):
        decoder, wire, more, longest = _flooded(), data, True, 0.0
        while more:
            begun_at = time.thread_time()
            more = decoder.feed(wire, [])
            longest = max(longest, time.thread_time() - begun_at)
            wire = b""
        trials.append(longest)
    return min(trials)


@_each_flood
def test_feed_takes_no_longer_for_any_flood_than_for_small_messages(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12: from 1 to 6 times as long was measured.  The measure is in Python always: in C
    small messages take a thirtieth of that, and nothing else is faster."""
    longest = _longest_feed(data)
    monkeypatch.setattr(_decoder, "take_messages", _frames_python.take_messages)
    small = encode(Frame(TEXT, b"x"), masked=False) * WORK_PER_FEED
    assert longest < 60 * _longest_feed(small)


def test_decoder_tells_of_invalid_utf_8_in_compressed_text_at_once() -> None:
    """Section 8.1 of RFC 6455, on what was inflated; the end of the message is not needed."""
    payload = compressed("grüße".encode())
    assert read(_wire([Frame(TEXT | RSV1, payload)], masked=False), inflater=_inflater()) == (
        ["grüße"],
        None,
    )
    flushed = zlib.compressobj(wbits=-15)
    begun = flushed.compress(b"a\xff") + flushed.flush(zlib.Z_SYNC_FLUSH)
    frame = Frame(TEXT | RSV1, begun, False)
    assert read(_wire([frame], masked=False), inflater=_inflater()) == ([], 1007)
    cut = _wire([Frame(TEXT | RSV1, compressed(b"\xc3"))], masked=False)
    assert read(cut, inflater=_inflater()) == ([], 1007)


def test_decoder_refuses_corrupt_compressed_data_and_keeps_what_came_before() -> None:
    frames = [Frame(TEXT | RSV1, _HELLO), Frame(BINARY | RSV1, b"\xff\xff")]
    assert read(_wire(frames, masked=False), inflater=_inflater()) == (["Hello"], 1007)


@_sides
@given(data=st.binary(), opcode=st.sampled_from([TEXT, BINARY]), fin=st.booleans())
def test_decoder_raises_only_its_own_error_for_any_compressed_data(
    masked: bool, data: bytes, opcode: int, fin: bool
) -> None:
    read(
        _wire([Frame(opcode | RSV1, data, fin)], masked=masked), masked=masked, inflater=_inflater()
    )


@pytest.mark.parametrize("masked", [False, True])
def test_encode_message_compresses_in_the_form_that_says_so(masked: bool) -> None:
    form = WireForm(masked, Compressor(Deflate(), 15))
    text = "compressible " * 20
    split = split_frame(encode_message(text, form), masked=masked)
    assert split is not None
    assert split[0].opcode == TEXT | RSV1
    assert inflated(split[0]) == text.encode()
    small = split_frame(encode_message(b"small", form), masked=masked)
    assert small == (Frame(BINARY, b"small"), b"")
