"""What signals tell a server."""

from __future__ import annotations

import signal
from typing import Final

from .._close_codes import CloseCode

SIGHUP: Final = getattr(signal, "SIGHUP", None)  # Windows has none
# What each signal tells the peers: come back soon, or this server goes.
CLOSE_CODES: Final[dict[int, CloseCode]] = {
    signal.SIGTERM: CloseCode.SERVICE_RESTART,
    signal.SIGINT: CloseCode.GOING_AWAY,
}
if SIGHUP is not None:
    CLOSE_CODES[SIGHUP] = CloseCode.SERVICE_RESTART
