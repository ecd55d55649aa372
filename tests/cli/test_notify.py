"""What a service manager is told, by a NOTIFY_SOCKET of the test's own."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
import trio

from tests.processes import PATIENCE, python, running
from trioweb._cli._notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


async def told(manager: socket.socket) -> str:
    """The next thing, without what only says that it is alive."""
    while (text := await trio.to_thread.run_sync(manager.recv, 1000)) == b"WATCHDOG=1":
        pass
    return text.decode()


@pytest.mark.network
async def test_service_manager_hears_of_start_reload_life_and_end(manager: socket.socket) -> None:
    command = python("-m", "trioweb", "serve", "--port", "0", "--history", "5")
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "100000"}
    async with running(command, **environment) as server:
        assert await told(manager) == "READY=1"
        await server.output.next()  # it told where it is before
        for _ in range(3):
            assert await trio.to_thread.run_sync(manager.recv, 1000) == b"WATCHDOG=1"
        server.process.send_signal(signal.SIGHUP)
        assert (await told(manager)).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await told(manager) == "READY=1"
        server.process.send_signal(signal.SIGTERM)
        assert await told(manager) == "STOPPING=1"
        assert await server.wait() == 0


async def test_only_the_process_that_is_meant_says_that_it_is_alive(
    manager: socket.socket, autojump_clock: object
) -> None:
    path = manager.getsockname()
    manager.setblocking(False)
    for pid, is_ours in (str(os.getpid()), True), ("1", False):
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": pid}
        with Notifier(environment) as notifier, trio.move_on_after(2.5):
            assert environment == {}  # nobody whom it starts is the service
            await notifier.keep_alive()
        times = 0
        while times < 9:
            try:
                assert manager.recv(1000) == b"WATCHDOG=1"
            except BlockingIOError:
                break
            times += 1
        assert times == (3 if is_ours else 0)


def test_manager_may_have_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract one
        name = sock.getsockname()
        with Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}) as notifier:
            notifier.ready()
        sock.settimeout(PATIENCE)
        assert sock.recv(100) == b"READY=1"


def test_manager_that_is_not_there_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as notifier:
        with caplog.at_level(logging.WARNING, "trioweb"):
            notifier.ready()
    assert "was not told READY=1: " in caplog.text


async def test_without_a_manager_nothing_is_told() -> None:
    with Notifier({}) as notifier:
        notifier.ready()
        await notifier.keep_alive()
