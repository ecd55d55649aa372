"""The opening handshake (RFC 6455 section 4).

Each side has a module; both need the 101, which is in `_switch`.  The client's request is made by
trio-websocket, which nobody else imports; the server writes its answer itself.
"""

from ._client import Switch, connect
from ._server import check_upgrade, is_upgrade
from ._switch import accept_token, encode_switch

__all__ = [
    "Switch",
    "accept_token",
    "check_upgrade",
    "connect",
    "encode_switch",
    "is_upgrade",
]
