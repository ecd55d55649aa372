"""What a link needs of what its bytes leave and come by, and nothing else."""

from __future__ import annotations

from typing import Protocol


class Account(Protocol):
    """Whoever keeps account of what waits to be written."""

    def grew(self, size: int, /) -> None:
        """What waits is *size* bytes more than it was given."""

    def wrote(self, size: int, /, *, by_peer: bool) -> None:
        """*size* bytes of it are written.

        Args:
            by_peer: that there was room for them is the peer's doing, and a sign of life.
        """


class Direct(Protocol):
    """What can be written to in one call; a closed one raises OSError."""

    def send(self, data: bytes, /) -> int: ...


class Wire(Protocol):
    """The way to one peer.

    NOTE: `offer` and `write` never overlap: what one has begun is done before the next is called.

    Attributes:
        direct: its `send` takes of some bytes what `offer` takes, and raises BlockingIOError where
            there is no room for any; None where `offer` does more than that.
        is_queued: `offer` never takes anything, because only `write` can tell when there is room.
        backlog: bytes of what `offer` has taken that `write` has yet to write, first of all.
        has_more: there is something that the wire has to say itself, which `write` writes.
    """

    @property
    def direct(self) -> Direct | None: ...

    @property
    def is_queued(self) -> bool: ...

    @property
    def backlog(self) -> int: ...

    @property
    def has_more(self) -> bool: ...

    def offer(self, data: bytes, /) -> int:
        """Write as much of *data* as there is room for, without waiting; return how much.

        Raises:
            OSError: nothing can be written any more.
        """

    async def write(self, data: bytes, account: Account, /) -> None:
        """Write all of *data*, behind what has to come before it.

        Raises:
            trio.TooSlowError: the peer took nothing for the write timeout.
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: nothing can be written
                any more.

        Cancellation: a part may have been written.
        """

    async def receive(self, max_bytes: int, /) -> bytes | None:
        """What has come from the peer's transport, as it came; `b""` at its end, and None if
        `interrupt` was called meanwhile.

        Raises:
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: nothing comes any more.

        Cancellation: nothing is lost.  Checkpoint: always.
        """

    def interrupt(self) -> None:
        """End the `receive` that is under way, if there is one."""
