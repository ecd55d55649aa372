"""File descriptors that run out (CWE-774): accepting waits for them, and says so once."""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from functools import partial

import pytest
import trio
import trio.testing

import trioweb
from tests.processes import python, running
from tests.server.support import Peer, upgrade_head, wait
from tests.support import TEXT, Frame
from trioweb.testing import MemoryStream, stream_pair

# What the server's process may open, and a few more peers than that.
_DESCRIPTORS = 64
_PEERS = 80

# A server whose process says for how much CPU time it has run when it is asked for /cpu.
_SERVER = f"""
import logging, resource, sys, time
import trio, trioweb

async def handler(connection):
    async for message in connection:
        await connection.send(message)

async def http(request):
    return trioweb.Response(200, str(time.process_time()))

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda **options: trioweb.serve(
            handler, 0, host="127.0.0.1", http=http, **options))
        print(server.port, flush=True)

resource.setrlimit(resource.RLIMIT_NOFILE, ({_DESCRIPTORS}, {_DESCRIPTORS}))
logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
trio.run(main)
"""


class Short(trio.abc.Listener[MemoryStream]):
    """A listener that has no room for *shortages* times, and gives one stream then."""

    def __init__(self, shortages: int, error: int) -> None:
        self.attempts = 0
        self.theirs, self._ours = stream_pair()
        self._shortages = shortages
        self._error = error

    async def accept(self) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        self.attempts += 1
        if self.attempts <= self._shortages:
            raise OSError(self._error, os.strerror(self._error))
        if self.attempts > self._shortages + 1:
            await trio.sleep_forever()
        return self._ours

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_shortage_is_waited_out_and_told_once_a_minute(
    error: int,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten attempts a second, for seventy seconds: two log lines and no traceback."""
    listener = Short(700, error)
    begun = trio.current_time()
    await nursery.start(partial(trioweb.serve_listeners, wait, [listener]))
    await Peer(listener.theirs).open()
    assert trio.current_time() - begun == pytest.approx(70)
    first, second = caplog.records
    for record in first, second:
        assert (record.name, record.levelno) == ("trioweb.server", logging.ERROR)
        assert record.exc_info is None
        assert os.strerror(error) in record.getMessage()


@pytest.mark.network
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors there")
async def test_accepting_goes_on_when_descriptors_come_back() -> None:
    """More peers than descriptors: those who are in are served, the rest wait, at next to no
    cost, and get in when others leave."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4 * _PEERS:
        pytest.skip("this process may open too few files itself")
    async with running(python("-c", _SERVER)) as server:
        port = int(await server.output.next())

        async def cpu() -> float:
            peer = Peer(await trio.open_tcp_stream("127.0.0.1", port))
            return float((await peer.ask(b"GET /cpu HTTP/1.1\r\nHost: x\r\n\r\n")).body)

        before = await cpu()
        peers = [Peer(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(_PEERS)]
        for peer in peers:
            await peer.write(upgrade_head())
        # The first ones are let in in the order in which they came; nobody is refused.
        assert "Too many open files" in await server.errors.next()
        opened = 0
        with trio.move_on_after(1):
            for peer in peers:
                assert (await peer.read_head())[0] == 101
                opened += 1
        assert _DESCRIPTORS // 2 < opened < _DESCRIPTORS
        await peers[0].send(Frame(TEXT, b"hello"))
        assert await peers[0].frame() == Frame(TEXT, b"hello")

        for peer in peers[:opened]:
            await peer.stream.aclose()
        with trio.fail_after(20):
            for peer in peers[opened:]:
                assert (await peer.read_head())[0] == 101
        # A second without descriptors and 160 handshakes; a busy loop would need the second.
        assert await cpu() - before < 0.5
        for peer in peers[opened:]:
            await peer.stream.aclose()
        server.process.kill()
        assert (await server.ended())[2] == ""  # one line was all
