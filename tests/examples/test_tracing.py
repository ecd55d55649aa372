"""The traced chat, run as a process: its spans are read off its output."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

import trioweb
from tests.examples.support import PATIENCE, running

pytestmark = pytest.mark.network

# The only example that wants more than trioweb.
pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk, of the group tests")


def _spans(output: str) -> dict[str, list[Any]]:
    """The spans of the console's exporter, which are JSON one after the other, by name."""
    spans: dict[str, list[Any]] = {}
    decoder, start = json.JSONDecoder(), 0
    while output[start:].strip():
        span, start = decoder.raw_decode(output, start)
        start += len(output[start:]) - len(output[start:].lstrip())
        spans.setdefault(span["name"], []).append(span)
    return spans


async def _chat(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trioweb.open_connection(url) as ann,
            trioweb.open_connection(url) as bob,
        ):
            for text in "one", "two":
                await ann.send(text)
                assert await bob.receive() == text
        port = int(url.removesuffix("/").rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"nonsense\r\n\r\n")
            assert await stream.receive_some()


def test_connections_messages_and_passes_have_spans() -> None:
    with running("tracing.py") as program:
        trio.run(_chat, program.ws_url)
        program.process.terminate()
        assert program.process.stdout is not None
        spans = _spans(program.process.stdout.read())
        program.process.wait(PATIENCE)
    assert len(spans["websocket"]) == 2
    assert {span["attributes"]["websocket.close_code"] for span in spans["websocket"]} == {1000}
    [ann] = {span["parent_id"] for span in spans["publish"]}
    assert ann in [span["context"]["span_id"] for span in spans["websocket"]]
    assert [span["attributes"]["offset"] for span in spans["publish"]] == [1, 2]
    linked = [link["context"]["span_id"] for span in spans["delivered"] for link in span["links"]]
    assert linked == [span["context"]["span_id"] for span in spans["publish"]]
    [refused] = spans["refused"]
    assert refused["attributes"]["http.response.status_code"] == 400
