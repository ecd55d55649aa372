"""Workers as processes: how one is started, what it inherits, and where they all listen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import trio

from .._dataclass import dataclass
from .._server._inherited import adopt_listener


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker is started with, as one word of its command.

    Args:
        number: its place among the workers, from 1 on.
        channel: the descriptor that leads to its parent.
        listeners: the descriptors that it accepts on.
        program: what the parent is, which says whether the two can understand each other.
    """

    number: int
    channel: int
    listeners: tuple[int, ...]
    program: str

    def __str__(self) -> str:
        listeners = ",".join(map(str, self.listeners))
        return f"{self.number}:{self.channel}:{listeners}:{self.program}"

    @classmethod
    def parse(cls, text: str) -> Inheritance:
        """What `str` has made.

        Raises:
            ValueError: it is nothing of that kind.
        """
        number, channel, listeners, program = text.split(":", 3)
        return cls(int(number), int(channel), tuple(map(int, listeners.split(","))), program)

    def adopt(self) -> tuple[trio.SocketStream, list[trio.SocketListener]]:
        """The stream to the parent, and the listeners; no program that is started from here gets
        them.

        Raises:
            OSError: they are not what they should be.
        """
        os.set_inheritable(self.channel, False)
        channel = socket.socket(fileno=self.channel)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(channel))
        return stream, [adopt_listener(descriptor) for descriptor in self.listeners]


class _Process:
    """See `WorkerProcess`."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        self._process.kill()


async def start_process(
    command: Sequence[str], option: str, number: int, listeners: Sequence[int], program: str
) -> _Process:
    """Start *command* with *option* and the `Inheritance` of a worker behind it."""
    here, there = socket.socketpair()
    with there:
        inheritance = Inheritance(number, there.fileno(), tuple(listeners), program)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(here))
        try:
            process = await trio.lowlevel.open_process(
                [*command, option, str(inheritance)],
                stdin=subprocess.DEVNULL,
                pass_fds=(there.fileno(), *listeners),
                # Ctrl-C, and a terminal that is closed, are for the parent to pass on.
                process_group=0,
            )
        except BaseException:
            here.close()
            raise
    return _Process(process, stream)


def python_command() -> list[str]:
    """This Python, with the directory of the program first where that is so here."""
    flags = [] if os.getcwd() in sys.path or "" in sys.path else ["-P"]
    return [sys.executable, *flags, *(f"-W{option}" for option in sys.warnoptions)]
