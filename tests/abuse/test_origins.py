"""Cross-site WebSocket hijacking (CWE-1385): pages of other sites, with our users' cookies.

What makes an Origin ours is tested case by case in tests/server/test_admission.py; here, that a
refusal is all that such a page gets, and that it costs the server nothing that lasts.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.abuse.support import assert_alone, tasks, unreachable
from tests.server.support import Site, start, upgrade_head, wait

_LISTED = "https://friend.example"


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("https://evil.example", id="foreign"),
        pytest.param("null", id="null: a sandboxed frame, a file"),
        pytest.param("", id="empty"),
        pytest.param("https://server.evil.example", id="our name in front of theirs"),
        pytest.param("https://evilserver", id="our name at the end of theirs"),
        pytest.param("https://server.", id="our name with the root's dot"),
        pytest.param("https://server@evil.example", id="our name as a user"),
        pytest.param("https://evil.example/https://server", id="our name in a path"),
        pytest.param("https://evil.example#https://server", id="our name in a fragment"),
        pytest.param("https://evil.example\\@server", id="a backslash"),
        pytest.param("https://server, https://evil.example", id="two Origins"),
        pytest.param("https://server:8443", id="another port of our host"),
        pytest.param("javascript://server", id="our name, another scheme"),
        pytest.param("https://xn--srver-3ve", id="our name in other letters"),
        pytest.param(_LISTED + ".evil.example", id="a listed one in front"),
        pytest.param("https://evil-friend.example", id="a listed one at the end"),
        pytest.param("http://friend.example", id="a listed one without TLS"),
        pytest.param("https://sub.friend.example", id="below a listed one"),
        pytest.param("HTTPS://FRIEND.EXAMPLE", id="as no browser writes a listed one"),
        pytest.param("*", id="the wildcard itself"),
    ],
)
async def test_hostile_origin_gets_one_answer_and_leaves_nothing(
    origin: str, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """CWE-1385: a hundred pages at once; neither `admit` nor a handler hears of them."""

    async def admit(request: Any) -> None:
        raise AssertionError("admit was asked")

    site = await start(nursery, unreachable, admit=admit, origins=[_LISTED])
    await trio.testing.wait_all_tasks_blocked()
    before, begun = tasks(), trio.current_time()

    async def knock() -> None:
        assert (await site.ask(upgrade_head(Origin=origin))).status == 403

    async with trio.open_nursery() as pages:
        for _ in range(100):
            pages.start_soon(knock)
    assert trio.current_time() - begun <= 1
    assert site.server.statistics().refused == {403: 100}
    assert site.server.statistics().handler_errors == 0
    await assert_alone(site, before)


@pytest.mark.parametrize("origin", [None, "https://server", _LISTED])
async def test_missing_own_and_listed_origins_are_let_in(
    origin: str | None, nursery: trio.Nursery
) -> None:
    """Without an Origin it is no browser, so nobody's cookies are abused; `admit` is asked."""
    asked: list[str | None] = []

    async def admit(request: Any) -> None:
        asked.append(request.origin)

    site: Site = await start(nursery, wait, admit=admit, origins=[_LISTED])
    await site.opened(Origin=origin)
    assert asked == [origin]
