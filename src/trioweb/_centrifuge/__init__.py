"""The Centrifuge client protocol, as its messages look on the wire.  Pure: no I/O, no Trio.

The messages stand in `_schema`, `_commands` and `_replies`, as a table that `_table` reads.
`_json` and `_protobuf` are their two encodings, `_payload` says what a payload has to be for every
peer, `_codes` has the protocol's numbers.  Nothing here knows a topic's log, a connection or a
clock: what a message *means* is the business of a topic server and client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._codec import CODECS as CODECS
    from ._codec import Codec as Codec

# The encodings, as a WebSocket names them.
SUBPROTOCOLS: Final = ("centrifuge-protobuf", "centrifuge-json")
# Where Centrifugo has it, and so the address that clients are configured with.
USUAL_PATH: Final = "/connection/websocket"


# The numbers can be had without msgspec, which is an extra.
def __getattr__(name: str) -> object:
    if name not in ("CODECS", "Codec"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import msgspec as _needed  # noqa: F401 - by all modules below; here it is missed once
    except ModuleNotFoundError as exc:
        raise ImportError(
            "the Centrifuge client protocol needs msgspec: pip install 'trioweb[centrifuge]'",
            name=exc.name,
        ) from exc
    from . import _codec

    return getattr(_codec, name)
