"""Listening: which addresses of a host, and which port."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trioweb
from tests.server.support import Peer, wait
from trioweb._server import _listening
from trioweb._server._inherited import adopt_listener, passed_descriptors
from trioweb._server._listening import open_listeners
from trioweb._server._unix import open_unix_listener

pytestmark = pytest.mark.network

Open = Callable[..., Awaitable[list[trio.SocketListener]]]


class Machine:
    """This machine, but for the addresses of a name and what some of them lack."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.errors: dict[str, list[int]] = {}
        self._addresses = addresses
        monkeypatch.setattr(_listening, "_bind", self._bind)
        monkeypatch.setattr(trio.socket, "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        return [(0, 0, 0, "", (address, port)) for address in self._addresses]

    async def _bind(self, host: str, port: int, reuse_port: bool) -> trio.SocketListener:
        await trio.lowlevel.checkpoint()
        if self.errors.get(host):
            raise OSError(self.errors[host].pop(0), "as asked for")
        sock = trio.socket.socket()
        await sock.bind((host, port))
        sock.listen()
        return trio.SocketListener(sock)


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


async def test_error_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use") as caught:
            await trioweb.serve(wait, port, host="127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError, match=r"192\.0\.2\.1:7: "):
        await trioweb.serve(wait, 7, host="192.0.2.1")


async def test_port_can_be_shared_by_those_who_both_say_so() -> None:
    [one] = await open_listeners(0, ["127.0.0.1"], reuse_port=True)
    port = one.socket.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        await open_listeners(port, ["127.0.0.1"])
    [two] = await open_listeners(port, ["127.0.0.1"], reuse_port=True)
    assert await _close([one, two]) == [("127.0.0.1", port)] * 2


# Unix sockets.


async def test_serve_listens_on_a_unix_socket_beside_its_port(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, wait, 0, host="127.0.0.1", unix=path)
        server: trioweb.Server = await nursery.start(serve)
        assert path.stat().st_mode & 0o777 == 0o660
        async with await trio.open_unix_socket(str(path)) as stream:
            await Peer(stream).open()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await Peer(stream).open()
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_port_is_free_again_if_the_unix_socket_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(OSError, match="/nowhere/at/all"):
            await trioweb.serve(wait, port, host="127.0.0.1", unix="/nowhere/at/all")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, TypeError, "port, or unix="),
        ({"unix": 7}, TypeError, "unix"),
        ({"unix": "s", "host": "::1"}, ValueError, "host and reuse_port"),
        ({"unix": "s", "reuse_port": True}, ValueError, "host and reuse_port"),
        ({"port": 0, "reuse_port": 1}, TypeError, "reuse_port"),
    ],
)
async def test_where_to_serve_is_checked(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"serve.*{text}"):
        await trioweb.serve(wait, **arguments)


async def test_socket_that_is_left_over_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(path)
        left_over.listen()
    listener = await open_unix_listener(path)
    stream = await trio.open_unix_socket(path)
    await stream.aclose()
    await listener.aclose()
    assert not os.path.lexists(path)


@pytest.mark.parametrize("backlog", [0, 5])
async def test_socket_on_which_somebody_listens_stays(backlog: int, tmp_path: Path) -> None:
    """Also where so many wait already that nobody more can."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as peer:
        other.bind(path)
        other.listen(backlog)
        peer.connect(path)
        with pytest.raises(OSError, match=f"{path}: Address already in use"):
            await open_unix_listener(path)
        assert os.path.lexists(path)


async def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    there = tmp_path / "file"
    there.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(there)
    for path in there, link, tmp_path:
        with pytest.raises(FileExistsError, match=f"{path}: .*no socket"):
            await open_unix_listener(str(path))
    assert there.read_text() == "precious"
    assert link.is_symlink()


async def test_socket_of_a_successor_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = await open_unix_listener(path)
    os.unlink(path)
    successor = await open_unix_listener(path)
    await listener.aclose()
    assert os.path.lexists(path)
    await successor.aclose()
    await successor.aclose()
    assert not os.path.lexists(path)


# What others have opened.


async def test_adopted_descriptor_is_not_passed_on_and_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        descriptor = os.dup(other.fileno())
        os.set_inheritable(descriptor, True)
        listener = adopt_listener(descriptor)
        assert not os.get_inheritable(descriptor)
        address = other.getsockname()
        async with listener, await trio.open_tcp_stream(*address), await listener.accept():
            pass


def test_descriptor_that_is_no_listening_stream_socket_is_an_error_and_stays_open() -> None:
    reader, writer = os.pipe()
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for descriptor, text in [
            (reader, "not a socket|non-socket"),
            (idle.fileno(), "no listening stream socket"),
            (datagrams.fileno(), "no listening stream socket"),
        ]:
            with pytest.raises(OSError, match=f"descriptor {descriptor}: .*({text})"):
                adopt_listener(descriptor)
            os.fstat(descriptor)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("process", "count", "passed"),
    [(0, "2", [3, 4]), (0, "0", []), (1, "2", []), (1, "many", [])],
)
def test_passed_descriptors_are_for_one_process_and_are_told_once(
    process: int, count: str, passed: list[int]
) -> None:
    environment = {"LISTEN_PID": str(os.getpid() + process), "LISTEN_FDS": count}
    environment |= {"LISTEN_FDNAMES": "a:b", "HOME": "/"}
    assert list(passed_descriptors(environment)) == passed
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("count", ["", "-1", "two", "1000000", "\u0662"])
def test_number_of_passed_descriptors_must_be_one(count: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS="):
        passed_descriptors({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
