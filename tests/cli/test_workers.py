"""`trioweb serve --workers N`, as a person runs it: real processes that die, and are told to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

import trioweb
from tests.processes import PATIENCE, free_port, running_processes
from tests.server.support import Peer, upgrade_head
from tests.support import CLOSE, TEXT, Frame, close_frame
from trioweb._cli import main
from trioweb._cli._worker import program

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


KEY = "a-key-of-sixteen-characters"


class Parent:
    """A `trioweb serve --workers`, in the hands of a test.

    Attributes:
        url: where it serves, as it says.
        said: its standard error, so far.
    """

    def __init__(self, process: trio.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.said = ""
        self.has_said = trio.Event()
        self.peers: list[Peer] = []

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def workers(self) -> set[int]:
        """The processes of its workers."""
        return {pid for pid, parent in running_processes() if parent == self.process.pid}

    async def peer(self) -> Peer:
        """One who connects, until the end of the test."""
        if self.url.startswith("unix:"):
            stream = await trio.open_unix_socket(self.url.removeprefix("unix:"))
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.peers.append(Peer(stream))
        return self.peers[-1]

    async def opened(self, path: str = "/lobby") -> Peer:
        peer = await self.peer()
        await peer.open(path)
        return peer

    async def get(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        peer = await self.peer() if port is None else Peer(await trio.open_tcp_stream("::1", port))
        answer = await peer.ask(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        await trio.aclose_forcefully(peer.stream)
        return answer.status, answer.body

    async def post(self, body: str, path: str = "/lobby") -> None:
        peer = await self.peer()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain"
        head += f"\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        answer = await peer.ask(head.encode())
        await trio.aclose_forcefully(peer.stream)
        assert answer.status == 200, answer

    async def wait_said(self, text: str, times: int = 1) -> None:
        with trio.move_on_after(PATIENCE):
            while self.said.count(text) < times:
                await self.has_said.wait()
        assert self.said.count(text) >= times, self.said

    async def wait(self) -> int:
        """Wait for its end: its exit code."""
        with trio.move_on_after(PATIENCE):
            return await self.process.wait()
        raise AssertionError(f"it has not ended; it said {self.said}")


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def until(condition: Callable[[], object]) -> None:
    """Wait until that is so."""
    with trio.fail_after(PATIENCE):
        while True:
            if condition():
                return
            await trio.sleep(0.01)


async def wait_gone(pids: set[int]) -> None:
    """Wait until none of these processes is there."""
    await until(lambda: not pids & {pid for pid, _ in running_processes()})


@asynccontextmanager
async def serving(
    *arguments: str,
    workers: int = 2,
    where: Sequence[str] = ("--port", "0"),
    pass_fds: Sequence[int] = (),
) -> AsyncGenerator[Parent]:
    command = [sys.executable, "-m", "trioweb", "serve", "--workers", str(workers), *where]
    # A busy machine takes longer than the usual one to end what would end at once.
    command += ["--grace", "40"]
    process = await trio.lowlevel.open_process(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env={**os.environ, "TRIOWEB_API_KEY": KEY},
    )
    assert process.stdout is not None and process.stderr is not None
    parent = Parent(process, "")
    started: set[int] = set()
    try:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                assert process.stderr is not None
                async for data in process.stderr:
                    parent.said += data.decode()
                    parent.has_said.set()
                    parent.has_said = trio.Event()

            output = b""
            with trio.move_on_after(PATIENCE):
                while not output.endswith(b"\n"):
                    data = await process.stdout.receive_some()
                    if not data:
                        break
                    output += data
            assert output, parent.said
            parent.url = output.decode().removesuffix("\n")
            yield parent
            started = parent.workers
            process.kill()
            _kill(started)
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
    finally:
        with trio.CancelScope(shield=True):
            started |= parent.workers
            process.kill()
            await process.wait()
            _kill(started & {pid for pid, _ in running_processes()})
            for stream in process.stdout, process.stderr, *(peer.stream for peer in parent.peers):
                await trio.aclose_forcefully(stream)


async def test_workers_share_topics_and_their_numbers_are_added() -> None:
    port = free_port()
    async with serving("--metrics", f"[::1]:{port}", "--metrics-topic", "lobby") as parent:
        assert len(parent.workers) == 2
        assert await parent.get("/healthz") == (200, b"ok\n")
        peers = [await parent.opened() for _ in range(20)]
        await peers[0].send(Frame(TEXT, b"hello"))
        with trio.fail_after(PATIENCE):
            for peer in peers:
                frame = await peer.frame()
                assert frame is not None and frame.payload == b"hello"
        status, body = await parent.get("/stats")
        told = json.loads(body)
        assert (status, told["workers"], told["connections"]) == (200, 2, 20)
        assert told["hub"]["subscribers"] == 20
        # The kernel deals connections out: that all 20 are one worker's is no chance worth noting.
        assert told["hub"]["broker"]["attached"] == 2
        status, body = await parent.get("/metrics", port)
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse_metrics(body.decode())
            for sample in family.samples
        }
        assert samples["trioweb_workers",] == 2
        assert samples["trioweb_connections", "open"] == 20
        assert samples["trioweb_topic_head", "lobby"] == 1
        assert samples["trioweb_deliveries_total",] == 20


@pytest.mark.parametrize("format", ["text", "json"])
async def test_log_of_each_worker_says_which_it_is(format: str) -> None:
    async with serving("--log-format", format) as parent:
        workers = parent.workers
        told = {
            "text": [f", process {pid}: " for pid in workers],
            "json": [f'"process": {pid}' for pid in workers],
        }[format]
        with trio.fail_after(PATIENCE):
            # Until each has refused somebody, which is a line.
            while not all(text in parent.said for text in told):
                peer = await parent.peer()
                await peer.write(upgrade_head("/healthz"))
                assert (await peer.read_head())[0] == 404
                await trio.aclose_forcefully(peer.stream)
        whole, _, _ = parent.said.rpartition("\n")
        lines = [line for line in whole.splitlines() if "refused with 404" in line]
        assert lines
        for line in lines:
            if format == "json":
                record = json.loads(line)
                assert record["worker"] in (1, 2) and record["process"] in workers
            else:
                found = re.search(r" trioweb\.server, worker ([12]), process (\d+): ", line)
                assert found is not None and int(found[2]) in workers, line
        # The parent is none of them.
        parent.process.send_signal(signal.SIGHUP)
        await parent.wait_said("all workers were renewed")
        [line] = [line for line in parent.said.splitlines() if "were renewed" in line]
        assert "process" not in line


async def test_worker_that_dies_is_replaced_and_takes_no_position_along() -> None:
    async with serving() as parent:
        client = trioweb.open_topic_client(f"ws://127.0.0.1:{parent.port}/")
        async with client as follower, follower.subscription("lobby") as lobby:
            first = parent.workers
            with trio.fail_after(2 * PATIENCE):
                await parent.post("before")
                assert (await anext(lobby)).data == "before"
                for pid in first:
                    os.kill(pid, signal.SIGKILL)
                # Nobody is refused meanwhile: it waits for the next worker.
                await parent.post("after")
                # A Gap would be raised.
                assert (await anext(lobby)).data == "after"
            await parent.wait_said("killed by SIGKILL", 2)
            assert len(parent.workers) == 2 and not parent.workers & first


async def _churn(parent: Parent, ends: Counter[str], is_over: trio.Event) -> None:
    """Connect, and stay until told to go, again and again."""
    while not is_over.is_set():
        try:
            peer = await parent.peer()
            await peer.write(upgrade_head("/churn"))
            status, _ = await peer.read_head()
            if status != 101:
                ends[str(status)] += 1
            else:
                with trio.move_on_after(0.02):
                    while (frame := await peer.frame()) is not None:
                        if frame.opcode == CLOSE:
                            ends["close"] += 1
                            break
                ends["101"] += 1
            await trio.aclose_forcefully(peer.stream)
        except (OSError, trio.BrokenResourceError, AssertionError) as exc:
            ends[repr(exc)] += 1


async def test_renewal_refuses_and_resets_no_connection_and_loses_no_position() -> None:
    ends: Counter[str] = Counter()
    is_over = trio.Event()
    async with serving() as parent, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(_churn, parent, ends, is_over)
        url = f"ws://127.0.0.1:{parent.port}/"
        received: list[object] = []
        numbers = iter(range(10**6))
        async with (
            trioweb.open_topic_client(url) as follower,
            follower.subscription("lobby") as lobby,
        ):

            @nursery.start_soon
            async def follow() -> None:
                async for publication in lobby:
                    received.append(publication.data)

            first = parent.workers
            with trio.fail_after(4 * PATIENCE):
                for renewal in 1, 2:
                    parent.process.send_signal(signal.SIGHUP)
                    while parent.said.count("all workers were renewed") < renewal:
                        await parent.post(str(next(numbers)))
                        await trio.sleep(0.005)
                last = next(numbers)
                await parent.post(str(last))
                await until(lambda: str(last) in received)
            assert not parent.workers & first and len(parent.workers) == 2
            assert received == [str(number) for number in range(last + 1)]
            is_over.set()
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
            told = json.loads((await parent.get("/stats"))[1])
            # What the old ones had counted is still there.
            assert told["opened"] >= ends["101"]
    assert ends["101"] > 50
    assert set(ends) <= {"101", "close"}, ends


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 1012), (signal.SIGINT, 1001), (signal.SIGHUP, None)]
)
async def test_signal_ends_all_workers_softly(number: signal.Signals, code: int | None) -> None:
    async with serving() as parent:
        workers = parent.workers
        codes: list[int] = []

        async def stay(peer: Peer) -> None:
            codes.append((await peer.read_close())[0])
            await peer.send(close_frame(1012))
            await peer.stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(stay, await parent.opened())
            parent.process.send_signal(number)
            if code is None:
                await parent.wait_said("all workers were renewed")
                parent.process.send_signal(signal.SIGTERM)
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        assert codes == [code or 1012] * 6
        assert await parent.wait() == 0
        await wait_gone(workers)


async def test_signal_while_it_begins_ends_it_softly() -> None:
    command = [sys.executable, "-m", "trioweb", "serve", "--workers", "2", "--port", "0"]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    parent = Parent(process, "")
    try:
        # They are there, and do not serve yet.
        await until(lambda: len(parent.workers) == 2)
        workers = parent.workers
        process.send_signal(signal.SIGTERM)
        assert await parent.wait() == 0
        await wait_gone(workers)
        assert process.stderr is not None
        async for data in process.stderr:
            parent.said += data.decode()
        assert "Traceback" not in parent.said
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in process.stdout, process.stderr:
                assert stream is not None
                await trio.aclose_forcefully(stream)


async def test_soft_end_takes_no_longer_than_the_grace_and_a_second_signal_ends_it_at_once() -> (
    None
):
    async with serving("--grace", "1") as parent:
        peers = [await parent.opened() for _ in range(4)]
        workers = parent.workers
        parent.process.send_signal(signal.SIGTERM)
        assert await parent.wait() == 0
        await wait_gone(workers)
        del peers
    async with serving("--grace", "100") as parent:
        peers = [await parent.opened() for _ in range(4)]
        workers = parent.workers
        parent.process.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE):
            await peers[0].read_close()
        parent.process.send_signal(signal.SIGINT)
        assert await parent.wait() == 130
        await wait_gone(workers)


async def test_workers_whose_parent_was_killed_tell_their_peers_and_end() -> None:
    async with serving() as parent:
        workers = parent.workers
        peers = [await parent.opened() for _ in range(4)]
        parent.process.kill()
        with trio.fail_after(PATIENCE):
            for peer in peers:
                assert (await peer.read_close())[0] == 1012
                await peer.send(close_frame(1012))
                await peer.stream.aclose()
        await wait_gone(workers)


async def test_worker_that_is_told_to_end_by_somebody_else_is_replaced() -> None:
    async with serving() as parent:
        first = parent.workers
        for pid in first:
            # Those of a terminal are for the parent.
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
        assert await parent.get("/healthz") == (200, b"ok\n")
        os.kill(min(first), signal.SIGTERM)
        await parent.wait_said("exit status 0")
        await until(lambda: len(parent.workers) == 2 and min(first) not in parent.workers)
        assert max(first) in parent.workers


async def test_worker_that_stands_still_holds_nobody_up() -> None:
    async with serving() as parent:
        first = min(parent.workers)
        os.kill(first, signal.SIGSTOP)
        try:
            # Some of these wait in the kernel for the one that stands still.
            streams = [await parent.peer() for _ in range(20)]
            served = []
            async with trio.open_nursery() as nursery:

                async def open_one(peer: Peer) -> None:
                    await peer.open("/lobby")
                    served.append(peer)

                for peer in streams:
                    nursery.start_soon(open_one, peer)
                await until(lambda: len(served) >= 2)
                with trio.fail_after(PATIENCE):
                    await served[0].send(Frame(TEXT, b"hello"))
                    frame = await served[1].frame()
                    assert frame is not None and frame.payload == b"hello"
                os.kill(first, signal.SIGCONT)
                await until(lambda: len(served) == len(streams))
        finally:
            os.kill(first, signal.SIGCONT)


async def test_inherited_and_unix_sockets_are_shared_by_all_workers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        async with serving(where=("--fd", str(number)), pass_fds=[number]) as parent:
            assert await parent.get("/healthz") == (200, b"ok\n")
            parent.process.send_signal(signal.SIGTERM)
            assert await parent.wait() == 0
    path = tmp_path / "socket"
    async with serving(where=("--unix", str(path))) as parent:
        assert await parent.get("/healthz") == (200, b"ok\n")
        parent.process.send_signal(signal.SIGHUP)
        await parent.wait_said("all workers were renewed")
        assert await parent.get("/healthz") == (200, b"ok\n")
        parent.process.send_signal(signal.SIGTERM)
        assert await parent.wait() == 0
        assert not path.exists()


async def test_new_workers_read_everything_again_and_bad_files_change_nothing(
    tmp_path: Path,
) -> None:
    config = tmp_path / "trioweb.toml"
    config.write_text("no_echo = false\n")
    async with serving("--config", str(config)) as parent:
        assert b'data-echo="yes"' in (await parent.get("/lobby"))[1]
        config.write_text("no_echo = true\n")
        parent.process.send_signal(signal.SIGHUP)
        await parent.wait_said("all workers were renewed")
        assert b'data-echo="no"' in (await parent.get("/lobby"))[1]
        config.write_text("nonsense")
        workers = parent.workers
        parent.process.send_signal(signal.SIGHUP)
        await parent.wait_said("the old ones stay")
        assert "not TOML" in parent.said
        assert parent.workers == workers
        assert b'data-echo="no"' in (await parent.get("/lobby"))[1]


def test_port_that_others_have_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], root_logger: None
) -> None:
    with socket.socket() as taken:
        # Even with this, which a second parent has, too.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--workers", "2", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_worker_of_another_version_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], root_logger: None
) -> None:
    assert main(["serve", "--worker", "1:0:1:0.0/cpython-20"]) == 2
    line = capsys.readouterr().err
    assert f"this is {program()}" in line and "0.0/cpython-20: restart" in line


async def test_parent_comes_back_at_the_same_port_at_once() -> None:
    port = free_port()
    for _ in range(2):
        async with serving(where=("--port", str(port))) as parent:
            peer = await parent.opened()
            parent.process.send_signal(signal.SIGTERM)
            # Who closes last leaves nothing behind at the port.
            await peer.read_close()
            await peer.stream.aclose()
            assert await parent.wait() == 0
