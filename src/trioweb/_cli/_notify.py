"""What a service manager is told: that this server is ready, reloads, is alive, and ends.

Source: sd_notify(3), sd_watchdog_enabled(3).  Without a manager that asks for it nothing is told.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final, Self

import trio

_logger = logging.getLogger("trioweb")

_MICROSECONDS: Final = 1_000_000


class Notifier:
    """Tells the service manager that *environment* names, if any.

    The variables are taken out, as what this process starts is not the service.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract one.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        interval = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        is_ours = pid in ("", str(os.getpid())) and interval.isdigit()
        self._patience = int(interval) / _MICROSECONDS if is_ours else 0.0
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        if self._address and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def ready(self) -> None:
        """It serves, or has read everything again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It reads everything again; `ready` ends that."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """It ends softly."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Say that the event loop runs, twice in the time in which it has to; until cancelled."""
        while self._socket is not None and self._patience:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._patience / 2)

    def _tell(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as exc:
            # Whether it is missed, the manager decides; serving goes on.
            _logger.warning("the service manager was not told %s: %s", text.split()[0], exc)
