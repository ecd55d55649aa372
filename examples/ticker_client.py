"""A feed with several readers, one of which has to know where an old session ends.

    python examples/ticker_client.py --demo
    python examples/ticker_client.py ws://HOST:PORT/

With --demo it brings a feed of its own, which ends every connection after two seconds.  A feed
sends JSON, one tick a message: {"symbol": "TRIO", "price": 100.5}.  Ctrl-C or SIGTERM ends it.

Every stream of a client gets every message, with a bound of its own.  Who shows the price wants
the newest alone, so what is older may be dropped.  Who makes bars of ten ticks must not have one
span the gap between two sessions, so its stream has the events in their place among the messages.
"""

import argparse
import json
import random
import signal
from functools import partial

import trio

import trioweb

TICKS_PER_BAR = 10


def price_of(tick: str | bytes) -> float:
    return float(json.loads(tick)["price"])


async def show_price(client: trioweb.Client) -> None:
    with client.messages(max_messages=1, full="drop") as ticks:
        async for tick in ticks:
            print(f"price {price_of(tick):.2f}", flush=True)
            await trio.sleep(1)


async def make_bars(client: trioweb.Client) -> None:
    bar: list[float] = []
    with client.messages(events=True) as feed:
        async for item in feed:
            match item:
                case trioweb.Opened(session=session):
                    print(f"session {session}", flush=True)
                case trioweb.Lost(error=error):
                    print(f"gap: {error}; {len(bar)} ticks belong to no bar", flush=True)
                    bar.clear()
                case str(tick):
                    bar.append(price_of(tick))
            if len(bar) == TICKS_PER_BAR:
                print(
                    f"bar: open {bar[0]:.2f}, high {max(bar):.2f}, "
                    f"low {min(bar):.2f}, close {bar[-1]:.2f}",
                    flush=True,
                )
                bar.clear()


async def demo_feed(connection: trioweb.Connection) -> None:
    price = 100.0
    with trio.move_on_after(2):
        while True:
            price += random.gauss(0, 0.1)
            await connection.send(json.dumps({"symbol": "TRIO", "price": round(price, 2)}))
            await trio.sleep(0.06)
    await connection.aclose(trioweb.CloseCode.SERVICE_RESTART)


async def main(url: str | None) -> None:
    async with trio.open_nursery() as nursery:
        if url is None:
            serve = partial(trioweb.serve, demo_feed, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}/"
        async with trioweb.open_client(url) as client, trio.open_nursery() as readers:
            readers.start_soon(show_price, client)
            readers.start_soon(make_bars, client)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(signals)
            readers.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A feed with several readers.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("url", nargs="?")
    source.add_argument("--demo", action="store_true", help="with a feed of its own")
    trio.run(main, parser.parse_args().url)
