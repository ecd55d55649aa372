"""RFC 7692 permessage-deflate: what is agreed upon, and how messages shrink and grow again.

Pure: no I/O, no Trio.  Which bit of a frame says that it is compressed is `_decoder`'s business,
and the handshake that carries offers and answers is `_handshake`'s.

What we send never uses context takeover: every message is compressed by itself, though the
peer would allow more.  So one compressed frame serves every subscriber of a topic, a send that
never happened cannot leave the two ends with different contexts, and a connection holds no
compressor, which would be 150 KiB.  What we receive may use it, unless the peer promises not to.

Nor is the window of what we send the peer's choice, who can only bound it: then each choice would
be a form of its own, in which every publication is compressed and kept once more.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from .._close_codes import CloseCode
from .._dataclass import dataclass
from .._errors import FrameError
from .._policy import Deflate

if TYPE_CHECKING:
    from zlib import _Compress, _Decompress

_NAME: Final = "permessage-deflate"
# The parameters of RFC 7692 section 7.1.
_SERVER_TAKEOVER: Final = "server_no_context_takeover"
_CLIENT_TAKEOVER: Final = "client_no_context_takeover"
_SERVER_BITS: Final = "server_max_window_bits"
_CLIENT_BITS: Final = "client_max_window_bits"
_BITS: Final = {str(bits): bits for bits in range(8, 16)}
_MAX_BITS: Final = 15
# The windows that we compress with: the first that the peer allows.  What is compressed with a
# smaller window than agreed upon is good for every larger one.
# 12 is 4 KiB.  A message that is no larger comes out as with 15, which would make larger ones
# smaller by no more than 1 % (JSON) to 6 % (prose of 16 KiB); and 12 is what many peers ask for
# (Python's websockets), who so share one form with the browsers, who take any.
# 9 is for all others, and all that zlib has for the smallest of them: JSON of 4 KiB becomes 4 %
# larger and takes five times as long.  With a window of 8 bits it inflates, but its raw deflate
# has none: it refuses to begin, or (before 1.2.9) quietly takes 9.
_WINDOWS: Final = (12, 9)

# What a client asks for.  "client_max_window_bits" says that the server may choose one.
OFFER: Final = f"{_NAME}; {_CLIENT_TAKEOVER}; {_CLIENT_BITS}"

# RFC 6455 section 9.1.  Possessive, so that each character is looked at once: a header is read
# in linear time, whatever it holds.
_TOKEN: Final = r"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+"
_EXTENSION: Final = re.compile(r"[ \t]*+" + _TOKEN)
_PARAMETER: Final = re.compile(
    r";[ \t]*+" + _TOKEN + r"(?:=[ \t]*+(?:" + _TOKEN + r'|"((?:[^"\\]|\\.)*+)"[ \t]*+))?+'
)
_COMMA: Final = re.compile(r"[ \t]*+,")
_ESCAPED: Final = re.compile(r"\\(.)")

# A name and, if there is one, its value.
_Parameter: TypeAlias = tuple[str, str | None]

# What ends every flush of zlib's, and is not sent (RFC 7692 section 7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"
# What one call of zlib's is offered, and gives at most: a call cannot be interrupted.  8 KiB keep
# it busy for 0.5 ms if they are full of blocks without content, and otherwise for less than 0.2.
# Smaller pieces make large messages slower: at the end of each call zlib saves its window.
_TAKEN_BYTES: Final = 8192
_GIVEN_BYTES: Final = 64 * 2**10

# Compressors at rest, by level and window bits.  Making one touches 150 KiB of fresh memory, which
# takes as long as a message of 1 KiB of JSON.  There are as many as windows for each
# level in use.
_idle: Final[dict[tuple[int, int], _Compress]] = {}


def check_compression(compression: object) -> None:
    """Raise TypeError unless *compression* is a policy or None."""
    if compression is not None and not isinstance(compression, Deflate):
        raise TypeError(f"compression={compression!r}: must be a Deflate, or None")


@dataclass(frozen=True, slots=True)
class Compressor:
    """How one side compresses what it sends.  Equal ones make the same bytes."""

    policy: Deflate
    window_bits: int

    def compress(self, payload: bytes) -> bytes | None:
        """The compressed payload of a message; None if it should go as it is."""
        if len(payload) < self.policy.min_bytes:
            return None
        key = (self.policy.level, self.window_bits)
        # NOTE: Taken out while it is at work, so that no other thread uses it, and so that
        # one that was interrupted half way is used no more.
        deflate = _idle.pop(key, None) or zlib.compressobj(key[0], wbits=-self.window_bits)
        # After a full flush nothing refers to what came before.
        data = deflate.compress(payload) + deflate.flush(zlib.Z_FULL_FLUSH)
        _idle[key] = deflate
        return data[: -len(_TAIL)] if len(data) - len(_TAIL) < len(payload) else None


class Inflater:
    """Inflates the messages of one direction of a connection, a piece at a time.

    Args:
        window_bits: the largest window that the peer compresses with.
        takeover: whether its messages refer to those before.

    Attributes:
        pending: how many bytes of what was put are still to be inflated.
    """

    __slots__ = ("_data", "_is_last", "_takeover", "_window_bits", "_zlib", "pending")

    def __init__(self, window_bits: int, *, takeover: bool) -> None:
        self._window_bits = window_bits
        self._takeover = takeover
        # Made when the first compressed message comes: it takes 9 KiB, and its window up to 32.
        self._zlib: _Decompress | None = None
        self._data = b""
        self._is_last = False
        self.pending = 0

    def put(self, data: bytes, *, last: bool) -> None:
        """Take the next of a message, and with *last* its end.

        NOTE: Only while nothing is `pending`.
        """
        self._data = data + _TAIL if last else data
        self._is_last = last
        self.pending = len(self._data)

    def inflate(self, max_bytes: int) -> bytes:
        """Inflate a piece of what is pending, in one call of zlib's.

        Returns:
            What it has become, perhaps nothing yet.  At most *max_bytes* + 1 bytes, and so many
            only if there are more than *max_bytes*; then the inflater must not be used again.

        Raises:
            FrameError: the data is corrupt.
        """
        start = len(self._data) - self.pending
        piece = self._data[start : start + _TAKEN_BYTES]
        inflate = self._zlib or zlib.decompressobj(-self._window_bits)
        try:
            # Never 0, which would mean any number.
            part = inflate.decompress(piece, min(max_bytes + 1, _GIVEN_BYTES))
        except zlib.error:
            raise FrameError(CloseCode.INVALID_PAYLOAD, "corrupt compressed data") from None
        # Behind a final block both may say what is left.
        left = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        self.pending -= len(piece) - len(left)
        if not self.pending:
            self._data = b""
        is_over = self._is_last and not self.pending and not self._takeover
        # Section 7.2.1 allows final blocks.  Behind one there is no going on with zlib, and who
        # makes them with it begins anew, too.
        self._zlib = None if is_over or inflate.eof else inflate
        return part


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two peers have agreed upon, as seen by one of them.

    Attributes:
        text: the same in the server's words.
        compressor: how we compress; None if we send everything as it is, which is always
            allowed.
        peer_bits, peer_takeover: see `Inflater`.
    """

    text: str
    compressor: Compressor | None
    peer_bits: int
    peer_takeover: bool

    def make_inflater(self) -> Inflater:
        return Inflater(self.peer_bits, takeover=self.peer_takeover)


def choose_offer(header: str, policy: Deflate) -> Agreement | None:
    """A server's answer to what a client offers: the first offer that it can take, if any.

    Args:
        header: the client's Sec-WebSocket-Extensions.

    Source: RFC 7692 sections 5.1 and 7.1.
    """
    try:
        for name, parameters in _parse(header):
            if name == _NAME and (agreement := _take_offer(parameters, policy)) is not None:
                return agreement
    except ValueError:
        # Where it makes no sense, the next offer cannot be found.
        pass
    return None


def _take_offer(parameters: Sequence[_Parameter], policy: Deflate) -> Agreement | None:
    try:
        wanted = _read(parameters, is_offer=True)
    except ValueError:
        return None
    compressor = _make_compressor(policy, wanted.get(_SERVER_BITS))
    if compressor is None:
        return None
    # Section 7.1.1.1: a server may announce this without being asked.
    answer = [_NAME, _SERVER_TAKEOVER]
    if _CLIENT_TAKEOVER in wanted:
        answer.append(_CLIENT_TAKEOVER)
    for name in (_SERVER_BITS, _CLIENT_BITS):
        if wanted.get(name) is not None:
            answer.append(f"{name}={wanted[name]}")
    return Agreement(
        "; ".join(answer),
        compressor,
        peer_bits=wanted.get(_CLIENT_BITS) or _MAX_BITS,
        peer_takeover=_CLIENT_TAKEOVER not in wanted,
    )


def _make_compressor(policy: Deflate, max_bits: int | None) -> Compressor | None:
    """What compresses for a peer that allows a window of *max_bits* (None: any); None if no
    window of ours is so small."""
    allowed = _MAX_BITS if max_bits is None else max_bits
    return next((Compressor(policy, bits) for bits in _WINDOWS if bits <= allowed), None)


def read_answer(header: str, policy: Deflate) -> Agreement:
    """What a server makes of OFFER.

    Args:
        header: the server's Sec-WebSocket-Extensions.

    Raises:
        ValueError: it cannot be an answer to that.
    Source: RFC 7692 sections 5.1 and 7.1.
    """
    chosen = list(_parse(header))
    if [name for name, _ in chosen] != [_NAME]:
        raise ValueError(f"{header!r:.60} is not what was offered")
    agreed = _read(chosen[0][1], is_offer=False)
    return Agreement(
        header,
        # With a window that is too small for zlib, what we send stays as it is.
        _make_compressor(policy, agreed.get(_CLIENT_BITS)),
        peer_bits=agreed.get(_SERVER_BITS) or _MAX_BITS,
        peer_takeover=_SERVER_TAKEOVER not in agreed,
    )


def _read(parameters: Sequence[_Parameter], *, is_offer: bool) -> Mapping[str, int | None]:
    """The parameters of one permessage-deflate, checked as section 7.1 asks.

    Raises:
        ValueError: which of them is unknown, comes twice or has a value that cannot be.
    """
    read: dict[str, int | None] = {}
    for name, value in parameters:
        if name in read:
            raise ValueError(f"parameter {name!r} twice")
        if name in (_SERVER_TAKEOVER, _CLIENT_TAKEOVER):
            good = value is None
        elif name in (_SERVER_BITS, _CLIENT_BITS):
            # Section 7.1.2.2: a client may say that it knows this one, and no more.
            may_be_bare = is_offer and name == _CLIENT_BITS
            good = value in _BITS or (value is None and may_be_bare)
        else:
            raise ValueError(f"unknown parameter {name!r}")
        if not good:
            raise ValueError(f"parameter {name!r} cannot have the value {value!r}")
        read[name] = None if value is None else _BITS[value]
    return read


def _parse(header: str) -> Iterator[tuple[str, list[_Parameter]]]:
    """The extensions of a Sec-WebSocket-Extensions, one by one, with their parameters.

    Raises:
        ValueError: it breaks the grammar of RFC 6455 section 9.1 from here on.
    """
    position = 0
    while True:
        if extension := _EXTENSION.match(header, position):
            position = extension.end()
            parameters: list[_Parameter] = []
            while parameter := _PARAMETER.match(header, position):
                position = parameter.end()
                name, token, quoted = parameter.groups()
                value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
                parameters.append((name, value))
            if position < len(header) and header[position] != ",":
                raise ValueError(f"{header[position:]!r:.60} makes no sense")
            yield extension[1], parameters
        # Lists may have empty elements (RFC 9110 section 5.6.1.2).
        if not (comma := _COMMA.match(header, position)):
            break
        position = comma.end()
    if header[position:].strip(" \t"):
        raise ValueError(f"{header[position:]!r:.60} makes no sense")
