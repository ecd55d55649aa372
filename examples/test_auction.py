"""Tests of auction.py on a network that exists only in memory, in virtual time.

    pip install pytest pytest-trio
    pytest -o trio_mode=true examples/test_auction.py

An outage of 45 seconds takes milliseconds, and a test that failed fails again.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

import trioweb
from auction import Auction
from trioweb.testing import Network, wait_until


class Bidder:
    """A client of the auction, which remembers how far it has seen."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.position = ""

    async def url(self) -> str:
        return f"ws://server/{self.position}"

    async def watch(self, client: trioweb.Client) -> None:
        async for message in client:
            epoch, offset, amount = json.loads(message)
            self.seen.append(amount)
            self.position = f"?epoch={epoch}&offset={offset}"


@asynccontextmanager
async def bidding(network: Network, host: str) -> AsyncIterator[tuple[Bidder, trioweb.Client]]:
    """Somebody who follows the auction from *host*."""
    bidder = Bidder()
    dial = network.host(host).dial
    confirmed = trioweb.Outbox(confirm=True)
    async with trioweb.open_client(bidder.url, dial=dial, outbox=confirmed) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bidder.watch, client)
            await client.wait_open()
            yield bidder, client
            nursery.cancel_scope.cancel()


async def test_bidder_misses_no_bid_in_an_outage_of_45_seconds(
    network: Network, autojump_clock: MockClock
) -> None:
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        listener = network.host("server").listen(80)
        await nursery.start(trioweb.serve_listeners, Auction(hub).handle, [listener])
        async with bidding(network, "phone") as (phone, _), bidding(network, "desk") as (_, desk):
            await desk.send("1")
            await wait_until(lambda: phone.seen == [1])
            network.partition("phone", "server", duration=45)
            for amount in range(2, 42):
                await desk.send(str(amount))
                await trio.sleep(1)
            assert phone.seen == [1]
            await wait_until(lambda: len(phone.seen) == 41)
            assert phone.seen == list(range(1, 42))
        nursery.cancel_scope.cancel()


async def test_bid_that_falls_into_an_outage_counts_when_that_is_over(
    network: Network, autojump_clock: MockClock
) -> None:
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        auction = Auction(hub)
        listener = network.host("server").listen(80)
        await nursery.start(trioweb.serve_listeners, auction.handle, [listener])
        async with bidding(network, "phone") as (phone, client):
            # Its connection will never work again, which the phone does not know when it bids.
            network.half_open("phone", "server", duration=45)
            await client.send("100")
            await wait_until(lambda: phone.seen == [100])
            assert auction.highest == 100
        nursery.cancel_scope.cancel()
