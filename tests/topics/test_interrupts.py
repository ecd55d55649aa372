"""Subscribers that lag, under Ctrl-C at each line of what writes to them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.topics.support import Peer, Transport, open_peers, publish
from trioweb import Limits, Publication, Retain, open_hub
from trioweb.testing import interrupt_everywhere


class Errors(logging.Handler):
    """Collects what is logged with an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@pytest.fixture
def errors() -> Iterator[Errors]:
    errors = Errors()
    logger = logging.getLogger("trioweb")
    logger.addHandler(errors)
    yield errors
    logger.removeHandler(errors)


async def _lag(ends: list[Peer]) -> None:
    """Topics that share links, whose peers read late."""
    async with open_hub() as hub:
        retain = Retain(max_messages=4, patience=0)
        topics = [hub.topic(name, retain=retain, slow="skip") for name in "ab"]
        topics.append(hub.topic("c", slow="latest"))
        for end in ends:
            for topic in topics:
                topic.subscribe(end.connection)
        for _ in range(3):
            for topic in topics:
                publish(topic, 3, 3000)
            await trio.sleep(1)
        for end in ends:
            end.resume()
        await hub.wait_caught_up()


@pytest.mark.parametrize("transport", ["kernel", "memory"])
def test_an_interrupt_leaves_frames_whole_and_the_tables_of_those_who_lag_in_step(
    transport: Transport, errors: Errors
) -> None:
    """Invariants 1 and 14."""

    async def scenario() -> None:
        async with open_peers() as peers:
            ends = [
                peers.open(transport, reading=False, limits=Limits(send_bytes=1)) for _ in range(2)
            ]
            try:
                await _lag(ends)
            finally:
                with trio.CancelScope(shield=True):
                    for end in ends:
                        end.resume()
                        await end.connection.send("end")
                    await trio.sleep(1)
                for end in ends:
                    assert end.messages[-1] == "end"

    assert interrupt_everywhere(scenario, packages=["trioweb._topics._turns"]) > 50
    names = ("delivery", "pump", "pass", "subscription")
    packages = [f"trioweb._topics._{name}" for name in names]
    assert interrupt_everywhere(scenario, packages=packages, max_runs=150) > 100
    assert not errors.found


def test_an_interrupt_strikes_at_once_in_what_encodes() -> None:
    """Or one that runs for ever could not be interrupted."""
    went_on = []

    def encode(publication: Publication) -> str:
        signal.raise_signal(signal.SIGINT)
        went_on.append(publication)
        return "x"

    async def main() -> None:
        async with open_peers() as peers, open_hub() as hub:
            topic = hub.topic("news")
            topic.subscribe(peers.open().connection, encode=encode)
            topic.publish("a")
            await trio.sleep(1)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert caught.group_contains(KeyboardInterrupt)
    assert not went_on
