"""The one face of other people's clients, so that each test is written once.

Knows none of them: they are in `clients`, `picows_client` and `javascript`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias

Message: TypeAlias = str | bytes

PATIENCE: Final = 30  # seconds; real sockets on a busy machine


@dataclass(frozen=True)
class Target:
    """What a client connects to, and what it says there.

    Attributes:
        authority: the file of the certificate authority to trust, for wss.
    """

    url: str
    subprotocols: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    authority: Path | None = None

    def ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.authority) if self.authority else None


class Client(Protocol):
    """What a test does with one of them.

    Not all of them let a program ping or choose fragments; `clients.CLIENTS` says which do.
    """

    @property
    def subprotocol(self) -> str | None: ...
    @property
    def extensions(self) -> bool:
        """Whether the server accepted any."""

    async def send(self, message: Message) -> None: ...
    async def send_fragments(self, parts: Sequence[str]) -> None: ...
    async def receive(self) -> Message: ...
    async def ping(self, payload: bytes) -> None:
        """Send a ping and wait for its pong, while nobody else receives."""

    async def close(self, code: int, reason: str) -> None: ...
    async def receive_close(self) -> tuple[int, str]:
        """Wait for the server's Close."""
