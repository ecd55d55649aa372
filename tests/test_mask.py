"""Masking (RFC 6455 section 5.3), in C and in Python."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb._protocol import _mask_python
from trioweb._protocol._mask_python import mask as mask_in_python

Mask = Callable[[bytes, bytes], bytes]

KEY: Final = b"\x01\x80\xff\x00"

_is_built: Final = importlib.util.find_spec("trioweb._protocol._mask_c") is not None
mask_in_c: Final[Callable[..., bytes]] = (
    importlib.import_module("trioweb._protocol._mask_c").mask if _is_built else mask_in_python
)
needs_mask_in_c = pytest.mark.skipif(
    not _is_built, reason="needs trioweb._protocol._mask_c, which was not built"
)
_both = pytest.mark.parametrize(
    "mask",
    [
        pytest.param(mask_in_c, marks=needs_mask_in_c, id="C"),
        pytest.param(mask_in_python, id="Python"),
    ],
)


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


@needs_mask_in_c
@pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
def test_mask_in_c_refuses_a_key_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"key of {size} bytes: must be 4"):
        mask_in_c(b"data", bytes(size))


@needs_mask_in_c
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


@needs_mask_in_c
def test_mask_in_c_refuses_a_buffer_with_gaps() -> None:
    with pytest.raises(BufferError):
        mask_in_c(memoryview(b"data")[::2], KEY)


@needs_mask_in_c
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


# Where it can be loaded.


def _choose() -> object:
    """What `_mask.py` chooses when it is imported for the first time."""
    source = Path(_mask_python.__file__).with_name("_mask.py")
    spec = importlib.util.spec_from_file_location("trioweb._protocol._mask", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mask


def test_mask_is_in_python_where_the_one_in_c_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trioweb._protocol._mask_c", None)
    assert _choose() is mask_in_python


@needs_mask_in_c
def test_mask_is_in_c_where_that_was_built() -> None:
    assert _choose() is mask_in_c


_IN_A_SUBINTERPRETER: Final = """
import sys
import _interpreters

code = f'''
import sys
sys.path[:] = {sys.path!r}
import trioweb
from trioweb._protocol._mask import mask
print(type(mask).__name__, mask(b"data", bytes(4)))
'''
print(_interpreters.run_string(_interpreters.create(), code))
"""


@needs_mask_in_c
@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="Trio cannot be imported in one before Python 3.13"
)
def test_trioweb_and_its_mask_in_c_can_be_imported_in_a_subinterpreter() -> None:
    """With a lock of its own (PEP 684); in a process of its own, so that nothing is left."""
    command = [sys.executable, "-c", _IN_A_SUBINTERPRETER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "builtin_function_or_method b'data'\nNone\n", done.stderr
