"""The ticker and the shared client, run as processes."""

from __future__ import annotations

import json
import re
import signal
from functools import partial
from typing import Any

import pytest
import trio

import trioweb
from tests.processes import Program, python, running

pytestmark = pytest.mark.network


async def serve(nursery: trio.Nursery, handler: Any) -> str:
    """Serve *handler*; the URL."""
    server: trioweb.Server = await nursery.start(
        partial(trioweb.serve, handler, 0, host="127.0.0.1")
    )
    return f"ws://127.0.0.1:{server.port}/"


async def end(program: Program, number: int = signal.SIGINT) -> None:
    """Tell it to end, and see that it does without a word."""
    program.process.send_signal(number)
    code, _, errors = await program.ended()
    assert (code, "Traceback" in errors) == (0, False)


async def test_ticker_makes_no_bar_across_the_end_of_a_session(nursery: trio.Nursery) -> None:
    sessions = iter([range(1, 15), range(16, 26)])

    async def feed(connection: trioweb.Connection) -> None:
        prices = next(sessions)
        for price in prices:
            await connection.send(json.dumps({"symbol": "X", "price": price}))
        if 1 in prices:
            await connection.aclose(1012)
        await connection.wait_closed()

    url = await serve(nursery, feed)
    async with running(python("examples/ticker_client.py", url)) as program:
        bar = "bar: open 16.00, high 25.00, low 16.00, close 25.00"
        lines = await program.output.until(bar)
        assert [line for line in lines if not line.startswith("price")] == [
            "session 1",
            "bar: open 1.00, high 10.00, low 1.00, close 10.00",
            "gap: connection closed by the peer (1012); 4 ticks belong to no bar",
            "session 2",
            bar,
        ]
        # Whoever shows the price is shown some of them, and at last the newest.
        if "price 25.00" not in lines:
            await program.output.until("price 25.00")
        await end(program)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ticker_demo_has_bars_and_gaps(number: signal.Signals) -> None:
    async with running(python("examples/ticker_client.py", "--demo")) as program:
        lines = await program.output.until("session 2")
        kinds = {re.split(r"[ :]", line)[0] for line in lines}
        assert kinds == {"session", "price", "bar", "gap"}
        await end(program, number)


async def test_shared_client_gives_each_part_what_is_for_it() -> None:
    async with running(python("examples/shared_client.py", "--demo")) as program:
        lines: list[str] = []
        while len([line for line in lines if "×" in line]) < 10:
            lines.append(await program.output.next())
        for factor in 6, 7:
            table = [line for line in lines if f" × {factor} = " in line]
            assert table == [f"{number} × {factor} = {number * factor}" for number in range(1, 6)]
        assert "connected" in lines
        assert any(line.startswith("the server's time is ") for line in lines)
        await end(program)


async def test_shared_client_asks_again_when_the_answer_was_lost(nursery: trio.Nursery) -> None:
    questions: list[Any] = []
    sessions = iter([1, 2])

    async def calculate(connection: trioweb.Connection) -> None:
        first = next(sessions) == 1
        async for message in connection:
            question = json.loads(message)
            questions.append(question)
            if first:
                await connection.aclose(1012)
            else:
                a, b = question["multiply"]
                await connection.send(json.dumps({"id": question["id"], "result": a * b}))

    url = await serve(nursery, calculate)
    async with running(python("examples/shared_client.py", url)) as program:
        lines: list[str] = []
        while len([line for line in lines if "×" in line]) < 10:
            lines.append(await program.output.next())
        assert "lost: connection closed by the peer (1012)" in lines
        await end(program)
    assert len([q for q in questions if q["id"] == questions[0]["id"]]) == 2


async def test_orders_are_carried_out_once_though_the_server_goes_down() -> None:
    async with running(python("examples/order_bot.py", "--demo")) as program:
        code, output, errors = await program.ended()
    assert (code, "Traceback" in errors) == (0, False)
    *lost, total = output.splitlines()
    assert total == "total: 5050"
    assert len(lost) == 2 and all("orders are open" in line for line in lost)


async def test_orders_are_sent_again_with_their_ids_until_they_are_answered(
    nursery: trio.Nursery,
) -> None:
    """By a server that dies of every 30th message, whether it has answered what came before."""
    received: list[Any] = []
    done: dict[str, int] = {}

    async def account(connection: trioweb.Connection) -> None:
        async for message in connection:
            received.append(json.loads(message))
            done.setdefault(received[-1]["id"], received[-1]["add"])
            if len(received) in (30, 60, 90):
                await connection.aclose(1012)
                return
            answer = {"id": received[-1]["id"], "total": sum(done.values())}
            await connection.send(json.dumps(answer))

    url = await serve(nursery, account)
    async with running(python("examples/order_bot.py", url)) as program:
        code, output, _ = await program.ended()
    assert code == 0
    assert output.splitlines()[-1] == "total: 5050"
    assert sorted(done.values()) == list(range(101))
    # What was sent again was sent unchanged.
    assert all(done[order["id"]] == order["add"] for order in received)
    assert len(received) > len(done)


async def test_order_book_is_never_shown_with_a_hole(nursery: trio.Nursery) -> None:
    """With more behind the gap than the client keeps for a reader who is busy."""
    sessions = iter(
        [([*range(2, 20), *range(21, 2000)], None), (range(2, 100), 1012), (range(2, 3000), None)]
    )
    subscriptions: list[Any] = []

    async def exchange(connection: trioweb.Connection) -> None:
        subscriptions.append(json.loads(await connection.receive()))
        await connection.send(json.dumps({"snapshot": 1, "bids": {"1.0": 1}, "asks": {"2.0": 1}}))
        numbers, code = next(sessions)
        for number in numbers:
            delta = {"delta": number, "side": "bids", "price": "1.0", "size": number}
            await connection.send(json.dumps(delta))
        if code is not None:
            await connection.aclose(code)
        await connection.wait_closed()

    url = await serve(nursery, exchange)
    async with running(python("examples/order_book.py", url)) as program:
        lines = await program.output.until("2999: 2999 @ 1.00 | 2.00 @ 1")
        await end(program)
    books = [line for line in lines if "|" in line]
    shown = [[int(part) for part in re.findall(r"^(\d+): (\d+) @", line)[0]] for line in books]
    assert [pair[0] for pair in shown] == [*range(2, 20), *range(2, 100), *range(2, 3000)]
    assert all(number == size for number, size in shown)
    assert [line for line in lines if "|" not in line] == [
        "connected",
        "gap: 21 came behind 19",
        "lost: connection closed by this side (1000, 'gap')",
        "connected",
        "lost: connection closed by the peer (1012)",
        "connected",
    ]
    assert subscriptions == [{"subscribe": "TRIO"}] * 3


async def test_order_book_demo_goes_on_behind_a_gap_and_a_close() -> None:
    async with running(python("examples/order_book.py", "--demo")) as program:
        lines: list[str] = []
        while lines.count("connected") < 3:
            lines.append(await program.output.next())
        assert "gap: 21 came behind 19" in lines
        await end(program)


@pytest.mark.parametrize(
    "example", ["ticker_client.py", "shared_client.py", "order_bot.py", "order_book.py"]
)
async def test_example_asks_for_a_url_or_the_demo(example: str) -> None:
    async with running(python(f"examples/{example}")) as program:
        code, _, errors = await program.ended()
    assert code == 2
    assert "--demo" in errors
