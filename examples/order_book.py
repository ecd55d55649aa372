"""An order book that follows a feed of a snapshot and deltas, and never shows one with a hole.

    python examples/order_book.py ws://127.0.0.1:8000/
    python examples/order_book.py --demo

Whoever subscribes gets the whole book once, and then what changes in it, numbered on from there:

    {"snapshot": 17, "bids": {"99.5": 10}, "asks": {"100.5": 5}}
    {"delta": 18, "side": "bids", "price": "99.5", "size": 0}

Each new connection subscribes again, and begins with a snapshot of its own.  A number that is
missing means that this connection has lost something: only a fresh one brings a whole book.

The demo's exchange leaves out a delta on its first connection, and closes its second one.
"""

import argparse
import json
import random
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import trio

import trioweb


class Gap(Exception):
    pass


class Book:
    """Prices and sizes, as of a number."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.number: int = snapshot["snapshot"]
        self.sides = {
            side: {float(price): size for price, size in snapshot[side].items()}
            for side in ("bids", "asks")
        }

    def apply(self, delta: dict[str, Any]) -> None:
        """Take over a change.

        Raises:
            Gap: there was another one before it.
        """
        if delta["delta"] != self.number + 1:
            raise Gap(f"{delta['delta']} came behind {self.number}")
        self.number = delta["delta"]
        side = self.sides[delta["side"]]
        if delta["size"]:
            side[float(delta["price"])] = delta["size"]
        else:
            side.pop(float(delta["price"]), None)

    def __str__(self) -> str:
        bids, asks = self.sides["bids"], self.sides["asks"]
        bid = max(bids, default=0.0)
        ask = min(asks, default=0.0)
        return f"{self.number}: {bids.get(bid, 0)} @ {bid:.2f} | {ask:.2f} @ {asks.get(ask, 0)}"


async def subscribe(connection: trioweb.Connection) -> None:
    await connection.send(json.dumps({"subscribe": "TRIO"}))


async def follow(client: trioweb.Client) -> None:
    book: Book | None = None
    with client.messages(events=True) as feed:
        async for item in feed:
            match item:
                case trioweb.Opened():
                    print("connected", flush=True)
                case trioweb.Lost(error=error):
                    print(f"lost: {error}", flush=True)
                    book = None
                case str(text):
                    message = json.loads(text)
                    if "snapshot" in message:
                        book = Book(message)
                    elif book is not None:  # or it is left of a connection that was given up
                        try:
                            book.apply(message)
                        except Gap as exc:
                            print(f"gap: {exc}", flush=True)
                            book = None
                            await client.reconnect(reason="gap")
                            continue
                        print(book, flush=True)


class Exchange:
    """The demo's server: a book that changes by itself."""

    def __init__(self) -> None:
        self.connections = 0

    async def handle(self, connection: trioweb.Connection) -> None:
        await connection.receive()  # the subscription
        self.connections += 1
        bids = {f"{100 - step / 2:.1f}": 10 for step in range(1, 6)}
        asks = {f"{100 + step / 2:.1f}": 10 for step in range(1, 6)}
        await connection.send(json.dumps({"snapshot": 1, "bids": bids, "asks": asks}))
        for delta in self.deltas():
            if delta["delta"] == 20:
                if self.connections == 1:
                    continue
                if self.connections == 2:
                    await connection.aclose(trioweb.CloseCode.SERVICE_RESTART)
            await connection.send(json.dumps(delta))
            await trio.sleep(0.05)

    def deltas(self) -> Iterator[dict[str, Any]]:
        number = 1
        while True:
            number += 1
            side, sign = random.choice([("bids", -1), ("asks", 1)])
            price = 100 + sign * random.randint(1, 5) / 2
            size = random.randint(0, 20)
            yield {"delta": number, "side": side, "price": f"{price:.1f}", "size": size}


async def main(url: str | None) -> None:
    async with trio.open_nursery() as nursery:
        if url is None:
            serve = partial(trioweb.serve, Exchange().handle, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}/"
        async with trioweb.open_client(url, on_open=subscribe) as client:
            async with trio.open_nursery() as reader:
                reader.start_soon(follow, client)
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    await anext(signals)
                reader.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Shows the best prices of an order book.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("url", nargs="?")
    source.add_argument("--demo", action="store_true", help="with an exchange of its own")
    trio.run(main, parser.parse_args().url)
