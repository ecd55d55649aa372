"""What the two encodings have in common, and which of them a subprotocol means.

A codec is a module.  Everything that it reads was written by a peer, so it raises nothing but
BadMessage; everything that it writes is read by peers, so it never fails and never writes what
their decoders refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from . import _json, _protobuf
from ._commands import Command
from ._replies import Reply
from ._schema import Publication
from ._table import M


class Codec(Protocol):
    """One encoding of the protocol."""

    @property
    def PING(self) -> str | bytes:
        """An empty reply, which is the server's ping, and an empty command, which is the pong."""

    def encode(self, message: Command | Reply) -> str | bytes:
        """*message* as one whole message of a connection."""

    def join(self, parts: Iterable[Any]) -> str | bytes:
        """What `encode` gave for several messages, as one message of a connection."""

    def prepared(self, part: M) -> M:
        """*part* encoded once, to stand in place of itself in many messages.

        Only `encode` of the same codec can take what this returns.
        """

    def pushes(self, topic: str) -> Callable[[Publication], str | bytes]:
        """What makes of each publication of *topic* the message that subscribers get.

        It is what `encode` makes of a push, in half the time.
        """

    def payload(self, message: str | bytes, *, is_json: bool) -> msgspec.Raw:
        """A publication's *message* as the payload that a peer with this encoding gets.

        JSON goes as it is, text as a JSON string or its own bytes, and bytes as base64 or as they
        are: whatever it is, each peer can decode what it is sent.

        Args:
            is_json: it is the text of one JSON value, within the limits of `as_json`.
        """

    def message(self, payload: msgspec.Raw) -> tuple[bytes, bool]:
        """What a peer has sent as *payload*, and whether that is JSON."""

    def decode_commands(self, data: str | bytes) -> Iterator[Command]:
        """The commands of one message of a connection, each read when it is asked for.

        What stands before a bad one comes out first.

        Raises:
            BadMessage: not to be decoded, or no command that the protocol has.
        """

    def decode_replies(self, data: str | bytes) -> Iterator[Reply]:
        """The replies and pushes of one message of a connection, likewise."""


# By the WebSocket subprotocol; "" is none, which is what the JSON clients offer.
CODECS: Final[Mapping[str, Codec]] = {
    "": _json,
    "centrifuge-json": _json,
    "centrifuge-protobuf": _protobuf,
}
