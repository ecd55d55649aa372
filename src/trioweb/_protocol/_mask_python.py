"""RFC 6455 section 5.3 in pure Python: where `_mask_c` was not built, or cannot be loaded.

NOTE: `_mask` chooses.  Where there is the one in C, nothing of this is ever imported.
"""

from typing import Final

# Up to here one XOR of big integers is the fastest mask in pure Python: the standard library has
# no XOR of bytes, and making an integer of bytes and bytes of an integer takes about 1.2 ns for
# each byte.  Above, four translations: 1.1 ns, a third of it for each of taking every fourth
# byte, translating it and putting it back.
_XOR_BYTES: Final = 512
_XOR_TABLES: Final = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))


def mask(data: bytes, key: bytes, /) -> bytes:
    """Return *data* masked, or unmasked, with the four bytes of *key*."""
    size = len(data)
    if size <= _XOR_BYTES:
        keys = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data) ^ int.from_bytes(keys)).to_bytes(size)
    # Slices of a bytearray are taken, translated and assigned twice as fast as those of bytes.
    masked = bytearray(data)
    for i, byte in enumerate(key):
        masked[i::4] = masked[i::4].translate(_XOR_TABLES[byte])
    return bytes(masked)
