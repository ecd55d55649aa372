"""The ways in which pages in the wild wrap a WebSocket, unchanged, against the real server.

Their heartbeats must keep them alive and reach nobody else.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection, connect

from tests.browser.support import Window
from tests.interop.serving import APP_HEARTBEATS, PATIENCE, Server, serving, wait_until

pytestmark = pytest.mark.browser

WRAPPERS: Final = Path(__file__).parent / "wrappers"
IDENTITY: Final = '{"identity":"me"}'

# What readyState was when the object was made and at each event, of a socket that closes itself.
_READY_STATES: Final = """(url) => new Promise((resolve) => {
    const ws = new WebSocket(url);
    const states = [ws.readyState];
    ws.onopen = () => {
        states.push(ws.readyState);
        ws.close(4001, "done");
        states.push(ws.readyState);
    };
    ws.onclose = ({code, wasClean}) => {
        states.push(ws.readyState);
        resolve([states, code, wasClean]);
    };
})"""

# Everything that a socket is given until it closes: text as it is, binary as a list of numbers.
_RECORD: Final = """(url) => new Promise((resolve) => {
    window.got = [];
    const ws = new WebSocket(url);
    ws.binaryType = "arraybuffer";
    ws.onopen = () => resolve();
    ws.onmessage = ({data}) => got.push(
        typeof data === "string" ? data : Array.from(new Uint8Array(data))
    );
    ws.onclose = ({code, reason, wasClean}) => { window.end = [code, reason, wasClean]; };
})"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server for the tests that leave it running; each uses topics of its own."""
    with serving(*APP_HEARTBEATS) as server:
        yield server


def terminal(server: Server, path: str) -> ClientConnection:
    """Somebody else's client, whom no heartbeat must reach."""
    return connect(server.ws(path), open_timeout=PATIENCE, max_queue=None)


def blank(window: Window, server: Server, wrapper: str | None = None) -> Page:
    """A page from the server's own origin, with one of the wrappers and nothing else in it."""
    page = window(f"{server.url}healthz")
    if wrapper is not None:
        page.add_script_tag(path=WRAPPERS / wrapper)
    return page


# Any page.


def test_ready_state_goes_through_0_1_2_3(shared: Server, window: Window) -> None:
    page = blank(window, shared)
    result = page.evaluate(_READY_STATES, shared.ws("/states"))
    assert result == [[0, 1, 2, 3], 4001, True]


def test_messages_arrive_as_text_or_binary_and_a_close_with_its_code(window: Window) -> None:
    with serving() as server:
        page = blank(window, server)
        page.evaluate(_RECORD, server.ws("/kinds"))
        with terminal(server, "/kinds") as other:
            for message in ("text ✓", b"\x00\xff", "", b""):
                other.send(message)
            page.wait_for_function("got.length === 4")
            server.terminate()
        page.wait_for_function("window.end")
        assert page.evaluate("got") == ["text ✓", [0, 255], "", []]
        assert page.evaluate("end") == [1012, "", True]


# "ping" as text every 2 s; closes if nothing has come within 10 s.


def open_heartbeat(page: Page, url: str, paces: dict[str, int]) -> None:
    page.evaluate(
        """([url, paces]) => new Promise((resolve) => {
            window.got = [];
            window.feed = new HeartbeatSocket(url, paces);
            feed.onmessage = (data) => got.push(data);
            feed.ws.addEventListener("open", resolve);
        })""",
        [url, paces],
    )


def check_heartbeat_stays_private(
    page: Page, server: Server, path: str, paces: dict[str, int], pongs: int
) -> None:
    with terminal(server, path) as other:
        open_heartbeat(page, server.ws(path), paces)
        page.wait_for_function(f"feed.pongs >= {pongs}")
        assert page.evaluate("[feed.ws.readyState, feed.timedOut]") == [1, False]
        page.evaluate("feed.send('after the pings')")
        # The first thing that the other is sent, and the only one that the page itself sees.
        assert other.recv(PATIENCE) == "after the pings"
        page.wait_for_function("got.length")
        assert page.evaluate("got") == ["after the pings"]


def test_heartbeat_socket_is_kept_alive_by_pongs_of_its_own(shared: Server, window: Window) -> None:
    page = blank(window, shared, "heartbeat.js")
    paces = {"interval": 100, "timeout": 2000}
    check_heartbeat_stays_private(page, shared, "/heartbeat", paces, pongs=30)


@pytest.mark.slow
def test_heartbeat_socket_is_kept_alive_at_its_real_pace(shared: Server, window: Window) -> None:
    page = blank(window, shared, "heartbeat.js")
    check_heartbeat_stays_private(page, shared, "/real-pace", {}, pongs=6)


def test_heartbeat_socket_closes_itself_when_the_server_hangs(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = blank(window, server, "heartbeat.js")
        open_heartbeat(page, server.ws("/hangs"), {"interval": 100, "timeout": 1000})
        page.wait_for_function("feed.pongs >= 1")
        server.process.send_signal(signal.SIGSTOP)
        page.wait_for_function("feed.timedOut")
        assert page.evaluate("feed.ws.readyState") == 2
        server.process.send_signal(signal.SIGCONT)
        page.wait_for_function("feed.ws.readyState === 3")


# A keepalive as JSON every 5 s; says who it is; sends again what failed while it was offline.


def open_keepalive(page: Page, url: str, paces: dict[str, int]) -> None:
    page.evaluate("([url, paces]) => { window.feed = openFeed(url, 'me', paces); }", [url, paces])
    page.wait_for_function("feed.socket.readyState === 1")


def test_keepalive_feed_says_who_it_is_first_and_its_keepalives_reach_nobody(
    shared: Server, window: Window
) -> None:
    page = blank(window, shared, "keepalive.js")
    with terminal(shared, "/keepalive") as other:
        open_keepalive(page, shared.ws("/keepalive"), {"keepalive": 50})
        # The connection's own count tells when keepalives have come.
        page.evaluate(
            """() => new Promise((resolve) => {
                const send = feed.socket.send.bind(feed.socket);
                let left = 10;
                feed.socket.send = (data) => { send(data); if (--left === 0) resolve(); };
            })"""
        )
        page.evaluate("feed.send({text: 'after the keepalives'})")
        last = '{"text":"after the keepalives"}'
        assert [other.recv(PATIENCE) for _ in range(2)] == [IDENTITY, last]
        page.wait_for_function("feed.received.length === 2")
        assert page.evaluate("feed.received") == [IDENTITY, last]


@pytest.mark.slow
def test_keepalive_feed_sends_again_at_its_real_pace_what_failed_while_offline(
    window: Window,
) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = blank(window, server, "keepalive.js")
        open_keepalive(page, server.ws("/feed"), {})
        page.evaluate("feed.send({n: 0})")
        page.wait_for_function("feed.received.length === 2")
        server.kill()
    page.wait_for_function("feed.socket.readyState === 3")
    for number in (1, 2, 3):
        page.evaluate(f"feed.send({{n: {number}}})")
    assert page.evaluate("feed.failed.length") == 3
    with serving(*APP_HEARTBEATS, port=server.port) as again:
        with terminal(again, "/feed") as other:
            expected = [IDENTITY, '{"n":1}', '{"n":2}', '{"n":3}']
            assert [other.recv(PATIENCE) for _ in expected] == expected
        page.wait_for_function("feed.received.length === 6")
    assert page.evaluate("feed.failed") == []


# One instance for all, five tries, a list of listeners.


def open_shared(page: Page, url: str, paces: dict[str, int]) -> None:
    page.evaluate(
        """([url, paces]) => {
            window.got = [[], []];
            for (const list of got) {
                SharedSocket.get(url, paces).listen((data) => list.push(
                    typeof data === "string" ? data : data.size
                ));
            }
        }""",
        [url, paces],
    )
    page.wait_for_function("SharedSocket.instance.ws.readyState === 1")


def test_shared_socket_is_one_and_hands_each_message_to_every_listener(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = blank(window, server, "shared.js")
        open_shared(page, server.ws("/shared"), {})
        with terminal(server, "/shared") as other:
            other.send("text")
            other.send(b"four")
            assert [other.recv(PATIENCE) for _ in range(2)] == ["text", b"four"]
            page.evaluate("SharedSocket.instance.send('its own')")
            assert other.recv(PATIENCE) == "its own"
        page.wait_for_function("got[0].length === 3 && got[1].length === 3")
        assert page.evaluate("got") == [["text", 4, "its own"]] * 2
        assert server.statistics()["opened"] == 2


def test_shared_socket_comes_back_when_the_server_does(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = blank(window, server, "shared.js")
        open_shared(page, server.ws("/shared"), {})
        server.kill()
    page.wait_for_function("SharedSocket.instance.ws.readyState === 3")
    with serving(*APP_HEARTBEATS, port=server.port) as again, terminal(again, "/shared") as other:
        page.wait_for_function("SharedSocket.instance.ws.readyState === 1")
        assert page.evaluate("SharedSocket.instance.tried") == 0
        other.send("welcome back")
        page.wait_for_function("got[0].length === 1")
        assert page.evaluate("got") == [["welcome back"]] * 2


def test_shared_socket_gives_up_after_five_tries(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = blank(window, server, "shared.js")
        open_shared(page, server.ws("/shared"), {"pause": 50})
        server.kill()
    page.wait_for_function("SharedSocket.instance.gaveUp")
    assert page.evaluate("SharedSocket.instance.tried") == 5


# A page at /ws?uid=…, which comes back unless closed by hand and closes when it is left.


def open_uid(window: Window, server: Server, uid: int) -> Page:
    # From the server's own origin: Chromium lets no page of unknown origin into a local network.
    page = window(f"{server.url}healthz?uid={uid}")
    page.set_content((WRAPPERS / "uid.html").read_text())
    expect(page.get_by_role("status")).to_have_text("open")
    return page


def test_uid_pages_meet_on_their_path_and_close_when_they_are_left(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        pages = [open_uid(window, server, uid) for uid in (1, 2)]
        with terminal(server, "/ws?uid=3") as other:
            other.send("to all desks")
            for page in pages:
                expect(page.get_by_role("listitem")).to_have_text(["to all desks"])
        pages[0].goto("about:blank")
        wait_until(lambda: server.statistics()["connections"] == 1, "the page has left")
        # A close() without a code, from the page; the terminal's was a 1000.
        assert server.statistics()["closed"] == {"1005": 1, "1000": 1}
        expect(pages[1].get_by_role("status")).to_have_text("open")


def test_uid_page_reconnects_unless_it_was_closed_by_hand(window: Window) -> None:
    with serving(*APP_HEARTBEATS) as server:
        page = open_uid(window, server, 1)
        by_hand = open_uid(window, server, 2)
        by_hand.get_by_role("button", name="Close").click()
        expect(by_hand.get_by_role("status")).to_have_text("closed 1000")
        server.terminate()
        expect(page.get_by_role("status")).to_have_text("closed 1012")
    with serving(*APP_HEARTBEATS, port=server.port) as again:
        expect(page.get_by_role("status")).to_have_text("open")
        expect(by_hand.get_by_role("status")).to_have_text("closed 1000")
        # A page is told a moment before it is counted.
        wait_until(lambda: again.statistics()["connections"] == 1, "one page is back")
