"""The two loops over bytes, in C and in Python: each does what the other does.

`tests/test_frames.py` holds a decoder with either of them to RFC 6455.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from operator import length_hint
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import BINARY, CLOSE, PING, TEXT, Frame, encode
from trioweb._protocol import _frames_python
from trioweb._protocol._frames_python import mask as mask_in_python

Mask = Callable[[bytes, bytes], bytes]

KEY: Final = b"\x01\x80\xff\x00"

_is_built: Final = importlib.util.find_spec("trioweb._protocol._frames_c") is not None
frames_in_c: Final[Any] = (
    importlib.import_module("trioweb._protocol._frames_c") if _is_built else _frames_python
)
mask_in_c: Final[Callable[..., bytes]] = frames_in_c.mask
needs_frames_in_c = pytest.mark.skipif(
    not _is_built, reason="needs trioweb._protocol._frames_c, which was not built"
)
_both = pytest.mark.parametrize(
    "mask",
    [
        pytest.param(mask_in_c, marks=needs_frames_in_c, id="C"),
        pytest.param(mask_in_python, id="Python"),
    ],
)
_both_takers = pytest.mark.parametrize(
    "module",
    [
        pytest.param(frames_in_c, marks=needs_frames_in_c, id="C"),
        pytest.param(_frames_python, id="Python"),
    ],
)


# Masking (RFC 6455 section 5.3).


def xor(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


@_both
@given(data=st.binary(max_size=5000), key=st.binary(min_size=4, max_size=4))
def test_mask_is_xor_with_the_key_and_its_own_inverse(mask: Mask, data: bytes, key: bytes) -> None:
    masked = mask(data, key)
    assert masked == xor(data, key)
    assert mask(masked, key) == data


@_both
@pytest.mark.parametrize("sizes", [range(301), range(505, 525), range(4090, 4105), [2**20 + 3]])
def test_mask_keeps_every_byte_in_its_place(mask: Mask, sizes: range | list[int]) -> None:
    for size in sizes:
        data = bytes(i % 251 for i in range(size))
        assert mask(data, bytes(4)) == data
        assert mask(data, KEY) == xor(data, KEY), size


@_both
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_mask_takes_any_buffer_wherever_it_begins(mask: Mask, kind: Callable[[bytes], Any]) -> None:
    data = bytes(range(100))
    for start in range(17):
        masked = mask(kind(data)[start : start + 50], KEY)
        assert type(masked) is bytes
        assert masked == xor(data[start : start + 50], KEY)


@needs_frames_in_c
@pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
def test_mask_in_c_refuses_a_key_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"key of {size} bytes: must be 4"):
        mask_in_c(b"data", bytes(size))


@needs_frames_in_c
@pytest.mark.parametrize(
    "args",
    [
        (),
        (b"data",),
        (b"data", KEY, KEY),
        ("data", KEY),
        (None, KEY),
        (b"data", "keys"),
        (b"data", 4),
    ],
)
def test_mask_in_c_refuses_what_is_not_two_times_bytes(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        mask_in_c(*args)


@needs_frames_in_c
def test_mask_in_c_refuses_a_buffer_with_gaps() -> None:
    with pytest.raises(BufferError):
        mask_in_c(memoryview(b"data")[::2], KEY)


@needs_frames_in_c
def test_mask_in_c_keeps_nothing() -> None:
    data, key = bytearray(1000), bytes(KEY)
    references = sys.getrefcount(data), sys.getrefcount(key)

    def use() -> None:
        for _ in range(1000):
            mask_in_c(data, key)
            with pytest.raises(ValueError, match="key of 0 bytes"):
                mask_in_c(data, b"")
            with pytest.raises(TypeError):
                mask_in_c("", key)

    use()
    tracemalloc.start()
    try:
        use()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert (sys.getrefcount(data), sys.getrefcount(key)) == references
    data.clear()  # which a buffer that was not released would forbid


# Whole messages.


@dataclass(frozen=True)
class Taken:
    """What `take_messages` has done."""

    stop: int | None  # where it ended, if it did not fail
    fault: str
    messages: list[Any]
    work: int  # that is left


def take(
    module: Any,
    data: bytes,
    position: int = 0,
    *,
    masked: bool = False,
    limit: int = 2**20,
    work: int = 100,
) -> Taken:
    units = repeat(True, work)
    messages: list[Any] = []
    stop, fault = None, ""
    try:
        stop = module.take_messages(data, position, masked, limit, units, messages)
    except UnicodeDecodeError as exc:
        fault = str(exc)
    return Taken(stop, fault, messages, length_hint(units))


# Frames that are taken, frames that are left, and what is neither.
_sizes = st.integers(0, 300) | st.sampled_from([0, 124, 125, 126, 127, 4095, 4096, 65535, 65536])
_payloads = (
    st.binary(max_size=60)
    | st.text(max_size=30).map(str.encode)
    | st.tuples(_sizes, st.integers(0, 255)).map(lambda pair: bytes([pair[1]]) * pair[0])
    | st.tuples(_sizes, st.text(min_size=1, max_size=4)).map(
        lambda pair: (pair[1].encode() * (pair[0] + 1))[: pair[0]]
    )
)
_frames = st.builds(
    Frame,
    st.sampled_from([TEXT, TEXT, BINARY, BINARY, 0x0, PING, CLOSE, TEXT | 0x40]),
    _payloads,
    st.sampled_from([True, True, True, False]),
)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Bytes that a peer may have sent, a little spoilt, and whether they should be masked."""
    masked = draw(st.booleans())
    frames = draw(st.lists(_frames, max_size=8))
    data = bytearray(b"".join(encode(frame, masked=masked) for frame in frames))
    for place, byte in draw(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=2)):
        if data:
            data[place % len(data)] = byte
    data += draw(st.binary(max_size=12))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))]), masked


@needs_frames_in_c
@given(
    chunk=chunks(),
    other=st.binary(max_size=80),
    place=st.integers(0, 400),
    limit=st.sampled_from([0, 1, 125, 126, 2**20, sys.maxsize, 2**80]) | st.integers(0, 300),
    work=st.integers(0, 9),
)
@settings(deadline=None, max_examples=1000)
def test_take_messages_is_the_same_in_c_and_in_python(
    chunk: tuple[bytes, bool], other: bytes, place: int, limit: int, work: int
) -> None:
    """Byte for byte and error for error, for any bytes, from anywhere in them."""
    data, masked = chunk
    for wire in data, other:
        for position in 0, min(place, len(wire)):
            options: dict[str, Any] = {"masked": masked, "limit": limit, "work": work}
            in_c = take(frames_in_c, wire, position, **options)
            in_python = take(_frames_python, wire, position, **options)
            assert in_c == in_python
            assert [type(message) for message in in_c.messages] == [
                type(message) for message in in_python.messages
            ]


_FRAMES: Final = (Frame(TEXT, "grüße".encode()), Frame(BINARY, bytes(200)), Frame(TEXT, b""))


@_both_takers
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    "behind",
    [
        Frame(PING, b"!"),
        Frame(CLOSE, b""),
        Frame(TEXT, b"ab", fin=False),
        Frame(0x0, b"ab"),
        Frame(TEXT | 0x40, b"ab"),
        Frame(TEXT | 0x10, b"ab"),
        Frame(0x3, b"ab"),
        Frame(BINARY, bytes(65536)),
        Frame(BINARY, bytes(1001)),
    ],
    ids=repr,
)
def test_take_messages_leaves_at_its_first_byte_what_is_no_small_whole_message(
    module: Any, behind: Frame, masked: bool
) -> None:
    wire = b"".join(encode(frame, masked=masked) for frame in _FRAMES)
    data = wire + encode(behind, masked=masked) + wire
    taken = take(module, data, masked=masked, limit=1000)
    assert taken == Taken(len(wire), "", ["grüße", bytes(200), ""], 97)
    # Behind it, it goes on.
    place = len(data) - len(wire)
    assert take(module, data, place, masked=masked, limit=1000).stop == len(data)


@_both_takers
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535])
def test_take_messages_leaves_a_frame_that_is_not_all_there(
    module: Any, size: int, masked: bool
) -> None:
    before = encode(Frame(BINARY, b"before"), masked=masked)
    frame = encode(Frame(BINARY, bytes(size)), masked=masked)
    for cut in {*range(min(20, len(frame))), len(frame) - 1}:
        taken = take(module, before + frame[:cut], masked=masked)
        assert taken == Taken(len(before), "", [b"before"], 99), cut
    assert take(module, before + frame, masked=masked).messages == [b"before", bytes(size)]


@_both_takers
@pytest.mark.parametrize(
    "head", ["81 81 01020304", "82 7e 007d", "82 7e 0000", "82 7f 00000000000000ff"]
)
def test_take_messages_leaves_a_length_or_a_mask_that_is_wrong(module: Any, head: str) -> None:
    assert take(module, bytes.fromhex(head) + bytes(300)) == Taken(0, "", [], 100)


@_both_takers
def test_take_messages_takes_no_more_than_there_is_work_for(module: Any) -> None:
    """Invariant 12: what is taken is counted, and what is done with it counts, too."""
    frame = encode(Frame(TEXT, b"x"), masked=True)
    assert take(module, frame * 9, masked=True, work=4) == Taken(4 * len(frame), "", ["x"] * 4, 0)
    assert take(module, frame * 4, masked=True, work=4) == Taken(4 * len(frame), "", ["x"] * 4, 0)
    assert take(module, frame, masked=True, work=0) == Taken(0, "", [], 0)

    class Costly(list[Any]):
        def append(self, message: Any) -> None:
            super().append(message)
            next(units)

    units, messages = repeat(True, 10), Costly()
    stop = module.take_messages(frame * 9, 0, True, 100, units, messages)
    assert (stop, messages) == (5 * len(frame), ["x"] * 5)


@_both_takers
def test_take_messages_keeps_what_came_before_a_text_that_is_not_utf8(module: Any) -> None:
    frames = Frame(TEXT, b"one"), Frame(TEXT, b"a\xff"), Frame(TEXT, b"two")
    taken = take(module, b"".join(encode(frame, masked=True) for frame in frames), masked=True)
    assert (taken.stop, taken.messages) == (None, ["one"])
    assert "can't decode byte 0xff in position 1: invalid start byte" in taken.fault


@_both_takers
def test_take_messages_lets_out_what_it_calls_raises(module: Any) -> None:
    class Refusing(list[Any]):
        def append(self, message: Any) -> None:
            raise ZeroDivisionError

    def work() -> Iterator[bool]:
        yield True
        raise ZeroDivisionError

    data = encode(Frame(TEXT, b"x"), masked=False) * 3
    messages: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        module.take_messages(data, 0, False, 100, repeat(True), Refusing())
    with pytest.raises(ZeroDivisionError):
        module.take_messages(data, 0, False, 100, work(), messages)
    assert messages == ["x"]


_ARGUMENTS: Final[tuple[Any, ...]] = (b"\x81\x00", 0, False, 100, repeat(True), [])


@needs_frames_in_c
@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, "text", TypeError),
        (0, bytearray(2), TypeError),
        (0, None, TypeError),
        (1, -1, ValueError),
        (1, 3, ValueError),
        (1, 2**64, OverflowError),
        (1, -(2**64), OverflowError),
        (1, "0", TypeError),
        (3, "100", TypeError),
        (4, [True], TypeError),
        (5, (), TypeError),
        (5, None, TypeError),
    ],
)
def test_take_messages_in_c_refuses_what_is_wrong(
    place: int, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        frames_in_c.take_messages(*_ARGUMENTS[:place], value, *_ARGUMENTS[place + 1 :])


@needs_frames_in_c
@pytest.mark.parametrize("count", [0, 5, 7])
def test_take_messages_in_c_wants_six_arguments(count: int) -> None:
    with pytest.raises(TypeError, match=f"takes 6 arguments, not {count}"):
        frames_in_c.take_messages(*(*_ARGUMENTS, None)[:count])


class _Answered(list[Any]):
    def append(self, message: Any) -> None:
        pass


@needs_frames_in_c
def test_take_messages_in_c_keeps_nothing() -> None:
    wire = b"".join(encode(frame, masked=True) for frame in _FRAMES * 10)
    bad = wire + encode(Frame(TEXT, b"\xff"), masked=True)
    answered = _Answered()

    def use() -> None:
        for _ in range(300):
            take(frames_in_c, wire, masked=True)
            take(frames_in_c, bad, masked=True)
            frames_in_c.take_messages(wire, 0, True, 1000, repeat(True), answered)

    use()

    def references() -> list[int]:
        return [sys.getrefcount(thing) for thing in (wire, answered, None, True)]

    before = references()
    tracemalloc.start()
    try:
        use()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert all(abs(now - then) < 100 for now, then in zip(references(), before, strict=True))


# Where it can be loaded.


def _choose() -> tuple[object, object, object]:
    """What `_speedups.py` chooses when it is imported for the first time."""
    source = Path(_frames_python.__file__).with_name("_speedups.py")
    spec = importlib.util.spec_from_file_location("trioweb._protocol._speedups", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mask, module.take_messages, module.LANGUAGE


def test_both_are_in_python_where_those_in_c_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trioweb._protocol._frames_c", None)
    assert _choose() == (mask_in_python, _frames_python.take_messages, "Python")


@needs_frames_in_c
def test_both_are_in_c_where_that_was_built() -> None:
    assert _choose() == (mask_in_c, frames_in_c.take_messages, "C")


_IN_A_SUBINTERPRETER: Final = """
import sys
import _interpreters

code = f'''
import sys
sys.path[:] = {sys.path!r}
import trioweb
from trioweb._protocol._speedups import mask
print(type(mask).__name__, mask(b"data", bytes(4)))
'''
print(_interpreters.run_string(_interpreters.create(), code))
"""


@needs_frames_in_c
@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="Trio cannot be imported in one before Python 3.13"
)
def test_trioweb_and_its_module_in_c_can_be_imported_in_a_subinterpreter() -> None:
    """With a lock of its own (PEP 684); in a process of its own, so that nothing is left."""
    command = [sys.executable, "-c", _IN_A_SUBINTERPRETER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "builtin_function_or_method b'data'\nNone\n", done.stderr
