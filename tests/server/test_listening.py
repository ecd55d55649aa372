"""Listening: which addresses of a host, and which port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trioweb._server._listening import open_listeners

pytestmark = pytest.mark.network

Open = Callable[..., Awaitable[list[trio.SocketListener]]]


class Machine:
    """This machine, but for the addresses of a name and what some of them lack."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.errors: dict[str, list[int]] = {}
        self._addresses = addresses
        self._open = trio.open_tcp_listeners
        monkeypatch.setattr(trio, "open_tcp_listeners", self._listen)
        monkeypatch.setattr(trio.socket, "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(0, 0, 0, "", (address, port)) for address in self._addresses]

    async def _listen(self, port: int, *, host: str) -> list[trio.SocketListener]:
        await trio.lowlevel.checkpoint()
        if self.errors.get(host):
            raise OSError(self.errors[host].pop(0), "as asked for")
        sock = trio.socket.socket()
        await sock.bind((host, port))
        sock.listen()
        return [trio.SocketListener(sock)]


async def _close(listeners: list[trio.SocketListener]) -> list[tuple[str, int]]:
    names = [listener.socket.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        await listener.aclose()
    return names


@pytest.mark.parametrize("error", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
async def test_addresses_that_this_machine_lacks_are_passed_over(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ::1 of localhost in most containers."""
    machine = Machine(monkeypatch, "::1", "127.0.0.1")
    machine.errors["::1"] = [error]
    [(host, _)] = await _close(await open_listeners(0, ["localhost"]))
    assert host == "127.0.0.1"


async def test_host_without_any_address_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "192.0.2.1")
    machine.errors["192.0.2.1"] = [errno.EADDRNOTAVAIL]
    with pytest.raises(OSError, match="as asked for"):
        await open_listeners(0, ["somewhere"])


async def test_port_0_is_one_port_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first one that was found is taken at another address."""
    machine = Machine(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    machine.errors["127.0.0.2"] = [errno.EADDRINUSE] * 3
    (one, port), (two, other) = await _close(await open_listeners(0, ["name"]))
    assert (one, two) == ("127.0.0.1", "127.0.0.2")
    assert port == other != 0


async def test_port_that_is_taken_at_one_address_is_an_error_and_frees_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, "127.0.0.1", "127.0.0.2")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    machine.errors["127.0.0.2"] = [errno.EADDRINUSE]
    with pytest.raises(OSError, match="as asked for"):
        await open_listeners(port, ["name"])
    assert await _close(await open_listeners(port, ["name"])) == [
        ("127.0.0.1", port),
        ("127.0.0.2", port),
    ]
