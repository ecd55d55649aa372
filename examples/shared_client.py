"""One connection that many parts of an application share.

    python examples/shared_client.py --demo
    python examples/shared_client.py ws://HOST:PORT/

Elsewhere this is a global connection manager with listeners that somebody must remember to take
off again.  Here it is one client, opened at the top and handed down to the parts that need it;
each has a stream of its own, for as long as its `with` block.  A part can be tested with a client
of its own, and none is left over when the client ends.

With --demo it brings a server, which multiplies numbers and, on its own account, tells the time.
It answers {"id": 1, "multiply": [6, 7]} with {"id": 1, "result": 42}, and sends {"time": "…"}.
Ctrl-C or SIGTERM ends it.
"""

import argparse
import json
import signal
import time
from functools import partial
from itertools import count
from typing import Any

import trio

import trioweb


class Calculator:
    """Questions and their answers; any number of tasks may ask at once."""

    def __init__(self, client: trioweb.Client) -> None:
        self.client = client
        self.numbers = count(1)

    async def multiply(self, a: int, b: int) -> int:
        number = next(self.numbers)
        question = json.dumps({"id": number, "multiply": [a, b]})
        # Before it asks, so that no answer can come before anybody listens.
        with self.client.messages(events=True) as messages:
            await self.client.send(question)
            while True:
                match await messages.receive():
                    case trioweb.Lost():
                        # Its answer may have been lost, too.  To ask twice does no harm.
                        await self.client.send(question)
                    case str(message):
                        answer = json.loads(message)
                        if answer.get("id") == number:
                            return int(answer["result"])


async def show_table(calculator: Calculator, factor: int) -> None:
    for number in range(1, 6):
        print(f"{number} × {factor} = {await calculator.multiply(number, factor)}", flush=True)
        await trio.sleep(0.2)


async def show_clock(client: trioweb.Client) -> None:
    with client.messages() as messages:
        async for message in messages:
            match json.loads(message):
                case {"time": text}:
                    print(f"the server's time is {text}", flush=True)


async def show_connection(client: trioweb.Client) -> None:
    with client.messages(events=True) as messages:
        async for item in messages:
            match item:
                case trioweb.Opened():
                    print("connected", flush=True)
                case trioweb.Lost(error=error):
                    print(f"lost: {error}", flush=True)


async def application(client: trioweb.Client) -> None:
    """The parts; none of them knows of the others."""
    calculator = Calculator(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_connection, client)
        nursery.start_soon(show_clock, client)
        nursery.start_soon(show_table, calculator, 6)
        nursery.start_soon(show_table, calculator, 7)


async def demo_server(connection: trioweb.Connection) -> None:
    async def tell_time() -> None:
        while True:
            await connection.send(json.dumps({"time": time.ctime()}))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_time)
        async for message in connection:
            question: dict[str, Any] = json.loads(message)
            a, b = question["multiply"]
            await connection.send(json.dumps({"id": question["id"], "result": a * b}))
        nursery.cancel_scope.cancel()


async def main(url: str | None) -> None:
    async with trio.open_nursery() as nursery:
        if url is None:
            serve = partial(trioweb.serve, demo_server, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}/"
        async with trioweb.open_client(url) as client, trio.open_nursery() as parts:
            parts.start_soon(application, client)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(signals)
            parts.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One connection, shared by many parts.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("url", nargs="?")
    source.add_argument("--demo", action="store_true", help="with a server of its own")
    trio.run(main, parser.parse_args().url)
