"""An auction, whose bidders come back with what they have seen last and get what they missed.

    python examples/auction.py --port 8000

Every bid that is higher than those before goes to everybody, as `[epoch, offset, amount]`.  Who
connects with `?epoch=…&offset=…` gets what came behind that, who connects without gets all.
`test_auction.py` beside it shows how to test such a server, outages included.
"""

import argparse
import json
from functools import partial

import trio

import trioweb


class Auction:
    def __init__(self, hub: trioweb.Hub) -> None:
        self.bids = hub.topic("bids")
        self.highest = 0

    async def handle(self, connection: trioweb.Connection) -> None:
        query = connection.request.query
        since = (query["epoch"], int(query["offset"])) if "offset" in query else 0
        with self.bids.subscribe(connection, since=since, encode=self.encode):
            async for message in connection:
                self.bid(int(message))

    def bid(self, amount: int) -> None:
        if amount > self.highest:
            self.highest = amount
            self.bids.publish(str(amount))

    def encode(self, publication: trioweb.Publication) -> str:
        return json.dumps([self.bids.epoch, publication.offset, int(publication.message)])


async def main(port: int) -> None:
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        serve = partial(trioweb.serve, Auction(hub).handle, port, host="127.0.0.1", hub=hub)
        server: trioweb.Server = await nursery.start(serve)
        print(f"ws://127.0.0.1:{server.port}/", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An auction for WebSocket clients.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    trio.run(main, parser.parse_args().port)
