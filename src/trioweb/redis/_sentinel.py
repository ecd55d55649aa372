"""Sentinels: servers that know which Redis leads at present, and have another lead if it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import hiredis
import trio

from .._topics._engine_link import EngineLost
from ._greeting import ask
from ._target import Target

# A sentinel that is silent leaves time for the next one.
_SECONDS: Final = 1

Open = Callable[[Target], Awaitable[trio.abc.Stream]]


class Sentinels:
    """What asks *targets* for the address of *service*.

    Args:
        open: opens a connection to one of them.
    """

    def __init__(self, targets: Sequence[Target], service: str, open: Open) -> None:
        self._targets = list(targets)
        self._service = service
        self._open = open

    async def __call__(self) -> tuple[str, int]:
        """Where the server is that leads, by the first of them that knows.

        Raises:
            EngineLost: none does.
        """
        reasons = []
        for target in tuple(self._targets):
            try:
                found = await self._ask(target)
            except (OSError, trio.BrokenResourceError, EngineLost) as exc:
                reasons.append(f"{target.name}: {exc}")
            else:
                # Who has answered is asked first the next time.
                self._targets.remove(target)
                self._targets.insert(0, target)
                return found
        raise EngineLost(f"no sentinel knows where {self._service!r} is: {'; '.join(reasons)}")

    async def _ask(self, target: Target) -> tuple[str, int]:
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(_SECONDS):
                stream = await self._open(target)
                reader = hiredis.Reader()
                if target.credentials is not None:
                    await ask(stream, reader, [("AUTH", *target.credentials)])
                question = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
                [address] = await ask(stream, reader, [question])
                if address is None:
                    raise EngineLost("it has not heard of that")
                host, port = address
                return host.decode(), int(port)
            raise EngineLost(f"it was silent for {_SECONDS} second")
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)
