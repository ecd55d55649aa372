"""What users' tests ask for: waiting for something, leaks, a pair of connections."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trioweb.testing import Network, no_leaks, open_pair, wait_until


async def test_wait_until_waits_in_virtual_time(autojump_clock: MockClock) -> None:
    moment = trio.current_time() + 45

    def it_is_time() -> bool:
        return trio.current_time() >= moment

    await wait_until(it_is_time)
    assert moment <= trio.current_time() <= moment + 0.02
    before = trio.current_time()
    await wait_until(it_is_time)
    assert trio.current_time() == before


async def test_wait_until_fails_and_names_what_it_waited_for(autojump_clock: MockClock) -> None:
    def pigs_fly() -> bool:
        return False

    with pytest.raises(AssertionError, match=r"pigs_fly did not hold within 5 s"):
        await wait_until(pigs_fly, within=5)
    assert trio.current_time() == pytest.approx(5, abs=0.02)


async def test_no_leaks_allows_what_is_closed_and_what_was_there() -> None:
    network = Network()
    before = await network.connect("laptop", "server")
    async with no_leaks(network), trio.open_nursery() as nursery:
        for stream in (*before, *await network.connect("laptop", "server")):
            nursery.start_soon(stream.aclose)


async def test_no_leaks_allows_what_was_cancelled_to_end() -> None:
    async with trio.open_nursery() as nursery:
        async with no_leaks():
            nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_no_leaks_names_a_task_a_stream_and_a_listener_left_behind() -> None:
    network = Network()

    async def forgotten() -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=r"task .*forgotten") as caught:
            async with no_leaks(network):
                nursery.start_soon(forgotten)
                await network.connect("laptop", "server")
                network.host("server").listen(80)
        assert "stream laptop:49152 > server:49152" in str(caught.value)
        assert "listener server:80" in str(caught.value)
        nursery.cancel_scope.cancel()


async def test_no_leaks_lets_the_blocks_own_exception_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with no_leaks(network := Network()):
            network.host("server").listen()
            raise ZeroDivisionError


async def test_open_pair_gives_both_ends_of_a_connection_and_leaves_nothing() -> None:
    network = Network()
    async with no_leaks(network):
        async with open_pair(network, client="laptop") as (client, server):
            await client.send("from the client")
            assert await server.receive() == "from the client"
            await server.send(b"from the server")
            assert await client.receive() == b"from the server"
        assert server.close_code == 1000


async def test_open_pair_lets_an_error_of_its_block_out_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_pair():
            raise ZeroDivisionError


async def test_open_pair_breaks_with_its_network(autojump_clock: MockClock) -> None:
    network = Network()
    async with open_pair(network) as (client, server):
        with network.partition("client"):
            await client.send("held")
            with trio.move_on_after(10) as scope:
                await server.receive()
            assert scope.cancelled_caught
        assert await server.receive() == "held"
