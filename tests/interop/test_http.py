"""Plain HTTP of `trioweb serve` with other people's clients: curl and httpx-sse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest

from tests.interop.serving import KEY, PATIENCE, Server, publish, serving, write_keys

pytestmark = pytest.mark.network


@pytest.fixture
def keys(tmp_path: Path) -> str:
    return write_keys(tmp_path)


@pytest.fixture
def server(keys: str) -> Iterator[Server]:
    with serving("--api-key-file", keys) as server:
        yield server


def curl(*arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "--max-time", str(PATIENCE), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


# curl.


@pytest.mark.curl
def test_curl_publishes_and_keeps_its_connection(server: Server) -> None:
    to = f"{server.url}lobby"
    bearer = ("-H", f"Authorization: Bearer {KEY}")
    done = curl("-v", *bearer, "-d", "hello", to, to)
    assert [json.loads(line)["offset"] for line in done.stdout.splitlines()] == [1, 2]
    assert b"Re-using existing connection" in done.stderr
    large = b"x" * 1_000_000
    done = curl("-v", *bearer, "-H", "Expect: 100-continue", "--data-binary", "@-", to, data=large)
    assert b"100 Continue" in done.stderr
    done = curl(*bearer, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", to, data=large)
    assert json.loads(done.stdout)["offset"] == 4
    lines = ("-H", "Content-Type: application/x-ndjson", "--data-binary", "@-")
    done = curl(*bearer, *lines, to, data=b'{"n": 1}\n{"n": 2}\n')
    assert json.loads(done.stdout)["count"] == 2
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    assert curl(*status, "-d", "hello", to).stdout == b"401"
    too_large = b"x" * 2_000_000
    done = curl(*status, *bearer, "--data-binary", "@-", to, data=too_large)
    assert done.stdout == b"413"


@pytest.mark.curl
def test_curl_reads_events(server: Server) -> None:
    publish(server, "before")
    command = ["curl", "-sSN", "-H", "Accept: text/event-stream", f"{server.url}lobby"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
        try:
            assert reading.stdout is not None
            lines = iter(reading.stdout.readline, "")
            assert "data: before\n" in lines
            publish(server, "now")
            assert "data: now\n" in lines
            server.terminate()
            assert any(line.startswith("retry: ") for line in lines)  # and the end
            assert reading.wait(PATIENCE) == 0
        finally:
            reading.kill()


# httpx-sse.


def test_httpx_resumes_a_stream_that_was_cut(server: Server) -> None:
    def events(**headers: str) -> Any:
        client = httpx.Client(timeout=PATIENCE)
        return httpx_sse.connect_sse(client, "GET", f"{server.url}lobby", headers=headers)

    def received(source: httpx_sse.EventSource) -> Iterator[httpx_sse.ServerSentEvent]:
        # Against the standard, it tells of a block that has an id alone.
        return (event for event in source.iter_sse() if event.data)

    with events() as source:
        publish(server, "one\ntwo")
        event = next(received(source))
        assert (event.event, event.data) == ("message", "one\ntwo")
        last = event.id
    publish(server, "missed")
    with events(**{"Last-Event-ID": last}) as source:
        event = next(received(source))
        assert event.data == "missed"
        assert event.id != last
    with events(**{"Last-Event-ID": "another:7"}) as source:
        found = [event for _, event in zip(range(3), received(source), strict=False)]
    assert [event.event for event in found] == ["gap", "message", "message"]


def test_httpx_is_sent_away_from_a_full_server(keys: str) -> None:
    with serving("--max-connections", "1", "--api-key-file", keys) as server:
        with httpx.stream("GET", f"{server.url}lobby", headers={"Accept": "text/event-stream"}):
            answer = httpx.get(f"{server.url}lobby", headers={"Accept": "text/event-stream"})
            assert answer.status_code == 200
            assert answer.text.startswith("retry: ")
