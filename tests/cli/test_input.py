"""What `trioweb connect` reads: lines of any size and of any bytes, from any descriptor."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

import pytest
import trio

import trioweb
from tests.cli.support import Site, connect, run, sending
from tests.processes import PATIENCE, running
from trioweb._cli._input import Input
from trioweb._cli._terminal import UsageError

network = pytest.mark.network
LARGE = trioweb.Limits(max_message_bytes=2**24)


@pytest.fixture
async def pipe() -> tuple[int, int]:
    """A descriptor to read from, and one to write to."""
    return os.pipe()


async def read_all(source: Input) -> list[str | bytes]:
    messages = []
    with trio.fail_after(PATIENCE):
        while (message := await source.peek()) is not None:
            messages.append(message)
            source.take()
    return messages


def feed(pipe: tuple[int, int], data: bytes, encoding: str | None = "utf-8") -> Input:
    """An input of 10 bytes a line at most."""
    reading, writing = pipe
    os.write(writing, data)
    os.close(writing)
    return Input(reading, encoding, 10)


@pytest.mark.parametrize(
    ("data", "encoding", "messages"),
    [
        (b"", "utf-8", []),
        (b"\n", "utf-8", [""]),
        (b"a\nb", "utf-8", ["a", "b"]),
        (b"a\r\nb\r\n\r\n", "utf-8", ["a", "b", ""]),
        (b"a\rb\n", "utf-8", ["a\rb"]),
        (b"\xff\r\n\x00\n", None, [b"\xff\r", b"\x00"]),
        (b"\xe4\n", "latin-1", ["ä"]),
        (b"1234567890\r\n", "utf-8", ["1234567890"]),
    ],
    ids=str,
)
async def test_input_is_read_line_by_line(
    pipe: tuple[int, int], data: bytes, encoding: str | None, messages: list[str | bytes]
) -> None:
    assert await read_all(feed(pipe, data, encoding)) == messages
    os.close(pipe[0])


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b"\xff", "line 3 of the input is not utf-8: invalid start byte"),
        (b"12345678901", "line 3 of the input has 11 bytes, more than 10"),
        (b"x" * 1000, "line 3 of the input has 1000 bytes, more than 10"),
    ],
    ids=["not UTF-8", "too long", "far too long"],
)
@pytest.mark.parametrize("end", [b"\n", b"\nlater\n"], ids=str)
async def test_input_gives_what_stands_before_a_line_that_cannot_be_sent(
    pipe: tuple[int, int], bad: bytes, complaint: str, end: bytes
) -> None:
    source = feed(pipe, b"good\n\n" + bad + end)
    for message in "good", "":
        assert await source.peek() == message
        source.take()
    with pytest.raises(UsageError, match=complaint):
        await source.peek()
    os.close(pipe[0])


async def test_input_holds_no_line_that_is_too_long_to_be_sent(pipe: tuple[int, int]) -> None:
    """Whatever is at the other end: /dev/zero has no line ends at all."""
    reading, writing = pipe
    source = Input(reading, "utf-8", 100_000)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            async with trio.lowlevel.FdStream(writing) as stream:
                while True:
                    await stream.send_all(bytes(10_000))

        with trio.fail_after(PATIENCE), pytest.raises(UsageError, match="more than 100000 bytes"):
            await source.peek()
        nursery.cancel_scope.cancel()
    os.close(reading)


async def test_input_waits_for_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    """Another program that shares it has made it so: nothing to read is not its end."""
    reading, writing = pipe
    os.set_blocking(reading, False)
    source = Input(reading, "utf-8", 10)
    messages: list[str | bytes] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            messages.extend(await read_all(source))

        for number in range(3):
            await trio.sleep(0.05)
            os.write(writing, f"{number}\n".encode())
        os.close(writing)
    assert messages == ["0", "1", "2"]
    os.close(reading)


# As a process.


@network
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=repr)
async def test_connect_sends_lines_without_their_ends(site: Site, ends: str) -> None:
    await site.start(site.listen)
    assert (await run(connect(site.url), f"a{ends}b{ends}".encode()))[0] == 0
    assert await site.heard(2) == ["a", "b"]


@network
async def test_connect_sends_a_line_that_is_larger_than_the_outbox_is_by_default(
    site: Site,
) -> None:
    await site.start(site.listen, limits=LARGE)
    line = "x" * 2**21
    options = ["--max-message-bytes", str(2**24)]
    code, _, errors = await run(connect(site.url, *options), f"{line}\nnext\n".encode())
    assert (code, errors) == (0, "connected\n")
    assert await site.heard(2) == [line, "next"]


@network
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b"\xff\xfe", "line 2 of the input is not utf-8: invalid start byte; --binary sends any"),
        (b"x" * (2**20 + 1), "line 2 of the input has 1048577 bytes, more than 1048576; see --max"),
        (b"x" * 2**21, "line 2 of the input has more than 1048576 bytes; see --max-message-bytes"),
    ],
    ids=["not UTF-8", "too long", "far too long"],
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_connect_sends_what_stands_before_a_line_that_it_cannot_send(
    site: Site, bad: bytes, complaint: str, locale: str
) -> None:
    await site.start(site.listen)
    async with running(connect(site.url), LC_ALL=locale) as program:
        assert await program.errors.next() == "connected"
        with trio.fail_after(PATIENCE):
            # It may end before it has read all of that.
            with suppress(trio.BrokenResourceError):
                await program.stdin.send_all(b"good\n" + bad + b"\nlater\n")
        await program.end_input()
        code, _, errors = await program.ended()
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"failed: {complaint}")
    assert await site.heard(1) == ["good"]


@network
async def test_connect_sends_and_writes_bytes_as_they_are_with_binary(site: Site) -> None:
    await site.start(site.listen)
    command = connect(site.url, "--binary", "--linger", "0.5")
    process = await trio.run_process(command, stdin=b"\xff\x00\r\n\n", capture_stdout=True)
    assert await site.heard(2) == [b"\xff\x00\r", b""]
    assert process.stdout == b"\xff\x00\r\n\n"


# Where it writes.


@network
@pytest.mark.parametrize("which", ["stdout", "stderr"])
async def test_connect_waits_for_a_full_pipe_that_does_not_block(site: Site, which: str) -> None:
    """Whoever shares the pipe has made it so: that it is full for now is no failure."""
    await site.start(sending(*(f"line {number}" for number in range(100))))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(writing, bytes(4096))
    command = connect(site.url, "--no-reconnect", "--linger", "60")
    stream = trio.lowlevel.FdStream(reading)
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=writing if which == "stdout" else subprocess.DEVNULL,
            stderr=writing if which == "stderr" else subprocess.DEVNULL,
        )
    finally:
        os.close(writing)
    async with stream:
        with trio.move_on_after(0.5) as scope:
            await process.wait()
        assert scope.cancelled_caught
        written = bytearray()
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                written += data
            assert await process.wait() == 0
    lines = written[filled:].decode().splitlines()
    if which == "stdout":
        assert lines == [f"line {number}" for number in range(100)]
    else:
        assert lines[0] == "connected" and lines[1].startswith("lost: ")


@network
async def test_connect_goes_on_and_can_be_ended_while_nobody_reads_its_errors(site: Site) -> None:
    await site.start(site.listen)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        process = await trio.lowlevel.open_process(
            connect(site.url), stdin=subprocess.PIPE, stderr=writing
        )
    finally:
        os.close(writing)
    assert process.stdin is not None
    async with process.stdin:
        await process.stdin.send_all(b"a\nb\n")
        assert await site.heard(2) == ["a", "b"]
        process.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    os.close(reading)
