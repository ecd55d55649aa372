"""Orders that are carried out exactly once, however often the connection is lost.

    python examples/order_bot.py ws://127.0.0.1:8000/
    python examples/order_bot.py --demo

`Outbox(confirm=True)` proves that the server's endpoint has a message, not that its application
has done anything about it.  Here the application answers.  Every order has an id; it is kept until
the answer with that id has come, and sent again on each new connection: nothing is lost.  The
server carries out an id once, and only repeats the answer when it comes again: nothing is doubled.

The demo's server goes down twice, once before it has carried out an order and once right behind.
"""

import argparse
import json
import signal
from functools import partial
from uuid import uuid4

import trio

import trioweb

AT_ONCE = 20  # orders that wait for their answers


class Order:
    def __init__(self, amount: int) -> None:
        self.id = uuid4().hex
        self.text = json.dumps({"id": self.id, "add": amount})
        self.total = 0
        self.answered = trio.Event()


class Orders:
    """Places orders over a client, and waits for the answers."""

    def __init__(self, client: trioweb.Client) -> None:
        self.client = client
        self.open: dict[str, Order] = {}
        self.limit = trio.CapacityLimiter(AT_ONCE)

    async def place(self, amount: int) -> int:
        """Have *amount* added to the account, once; return its new total."""
        order = Order(amount)
        async with self.limit:
            self.open[order.id] = order
            try:
                await self.client.send(order.text)
                await order.answered.wait()
            finally:
                del self.open[order.id]
        return order.total

    async def receive(self) -> None:
        """Take the answers, and send again what a lost connection left without one."""
        with self.client.messages(events=True) as messages:
            async for item in messages:
                match item:
                    case trioweb.Lost(error=error):
                        print(f"lost: {error}; {len(self.open)} orders are open", flush=True)
                    case trioweb.Opened(session=session) if session > 1:
                        for order in list(self.open.values()):
                            await self.client.send(order.text)
                    case str(message):
                        answer = json.loads(message)
                        # An order that was sent twice has two answers.
                        if found := self.open.get(answer["id"]):
                            found.total = answer["total"]
                            found.answered.set()


class Account:
    """The demo's server."""

    def __init__(self) -> None:
        self.total = 0
        self.done: dict[str, str] = {}
        self.received = 0

    async def handle(self, connection: trioweb.Connection) -> None:
        async for message in connection:
            self.received += 1
            if self.received == 10:  # and down it goes
                await connection.aclose(trioweb.CloseCode.SERVICE_RESTART)
                return
            order = json.loads(message)
            if order["id"] not in self.done:
                self.total += order["add"]
                answer = {"id": order["id"], "total": self.total}
                self.done[order["id"]] = json.dumps(answer)
            if self.received == 40:
                await connection.aclose(trioweb.CloseCode.SERVICE_RESTART)
                return
            await connection.send(self.done[order["id"]])


async def add_up(client: trioweb.Client) -> None:
    async with trio.open_nursery() as nursery:
        orders = Orders(client)
        nursery.start_soon(orders.receive)
        async with trio.open_nursery() as placing:
            for amount in range(1, 101):
                placing.start_soon(orders.place, amount)
        print("total:", await orders.place(0), flush=True)
        nursery.cancel_scope.cancel()


async def main(url: str | None) -> None:
    async with trio.open_nursery() as nursery:
        if url is None:
            serve = partial(trioweb.serve, Account().handle, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}/"
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        async with trioweb.open_client(url) as client:
            await add_up(client)
        nursery.cancel_scope.cancel()


async def stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Adds 1 to 100 to an account, each once.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("url", nargs="?")
    source.add_argument("--demo", action="store_true", help="with a server of its own")
    trio.run(main, parser.parse_args().url)
