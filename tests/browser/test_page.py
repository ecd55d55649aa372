"""The chat page of `trioweb serve` in a real Chromium, against the real server."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import jwt
import pytest
from playwright.sync_api import WebSocketRoute, expect
from websockets.sync.client import ClientConnection, connect

from tests.browser.support import (
    Window,
    expect_open,
    expect_texts,
    log,
    notes,
    say,
    state,
    waiting,
    without_protocol,
)
from tests.interop.serving import PATIENCE, Server, serving, wait_until

pytestmark = pytest.mark.browser

# Notes every state that the page shows, from its first line of script on.
_RECORD_STATES: Final = """
    window.shown = [];
    new MutationObserver(() => shown.push(Number(
        document.getElementById("state").dataset.readyState
    ))).observe(document, {subtree: true, attributeFilter: ["data-ready-state"]});
"""

# A network that refuses every connection at once, and remembers when it was asked.
_REFUSE_CONNECTIONS: Final = """
    window.attempts = [];
    window.WebSocket = class {
        static CONNECTING = 0; static OPEN = 1; static CLOSING = 2; static CLOSED = 3;
        readyState = 0;
        constructor() {
            attempts.push(Date.now());
            setTimeout(() => { this.readyState = 3; this.onclose({code: 1006, reason: ""}); });
        }
        close() {}
    };
    Math.random = () => 1;
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server for the tests that leave it running; each uses topics of its own."""
    with serving() as server:
        yield server


def terminal(server: Server, path: str) -> ClientConnection:
    """Somebody else's client, which sees what really travels."""
    # With room for what a test does not read, or closing would wait for it.
    return connect(server.ws(path), open_timeout=PATIENCE, max_queue=None)


def test_page_shows_its_state_and_takes_its_topic_from_the_path(
    shared: Server, window: Window
) -> None:
    for path, topic in (
        ("", "/"),
        ("topics/one", "/topics/one"),
        ("caf%C3%A9%20au%20lait", "/café au lait"),
        ("100%25", "/100%"),
    ):
        page = window(shared.url + path)
        expect(page.get_by_role("heading")).to_have_text(topic)
        expect_open(page)
        with terminal(shared, f"/{path}") as other:
            other.send(f"to {topic}")
            expect_texts(log(page), [f"to {topic}"])


def test_windows_and_terminals_see_each_others_messages(shared: Server, window: Window) -> None:
    pages = [window(f"{shared.url}crowd") for _ in range(3)]
    for page in pages:
        expect_open(page)
    with terminal(shared, "/crowd") as other:
        expected = []
        for number, page in enumerate(pages):
            say(page, f"hello from {number}", name=f"user{number}")
            expected.append(f"user{number}: hello from {number}")
            assert other.recv(PATIENCE) == expected[-1]
        other.send("and from a terminal")
        expected.append("and from a terminal")
        for page in pages:
            expect_texts(log(page), expected)
            expect(waiting(page)).to_have_count(0)


def test_page_keeps_topics_apart(shared: Server, window: Window) -> None:
    here, there = window(f"{shared.url}here"), window(f"{shared.url}there")
    expect_open(there)
    expect_open(here)
    say(here, "only here")
    expect_texts(log(here), ["only here"])
    say(there, "only there")
    expect_texts(log(there), ["only there"])


def test_state_goes_through_0_1_2_3_and_round_again(shared: Server, window: Window) -> None:
    page = window()
    page.add_init_script(_RECORD_STATES)
    page.goto(f"{shared.url}states")
    expect_open(page)
    page.get_by_role("button", name="Disconnect").click()
    expect(state(page)).to_have_text("CLOSED")
    expect(page.get_by_text("Disconnected: connection closed (1000")).to_be_visible()
    assert page.evaluate("shown") == [0, 1, 2, 3]
    page.get_by_role("button", name="Connect", exact=True).click()
    expect_open(page)
    assert page.evaluate("shown") == [0, 1, 2, 3, 0, 1]


def test_page_does_not_reconnect_when_it_was_disconnected_by_hand(
    shared: Server, window: Window
) -> None:
    page = window()
    page.clock.install(time=0)
    page.add_init_script(_RECORD_STATES)
    page.goto(f"{shared.url}by-hand")
    expect_open(page)
    page.clock.pause_at(10 * PATIENCE)
    page.get_by_role("button", name="Disconnect").click()
    expect(state(page)).to_have_text("CLOSED")
    say(page, "typed meanwhile")
    page.clock.run_for(60_000)
    assert page.evaluate("shown") == [0, 1, 2, 3]
    expect_texts(waiting(page), ["typed meanwhile"])
    page.get_by_role("button", name="Connect", exact=True).click()
    expect_open(page)
    expect_texts(log(page), ["typed meanwhile"])


def test_page_delivers_what_was_typed_while_the_server_was_killed(window: Window) -> None:
    with serving() as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        say(page, "before", name="Ada")
        expect_texts(log(page), ["Ada: before"])
        server.kill()
    expect(state(page)).to_have_text("CLOSED")
    expect(notes(page)).to_contain_text(["Connection lost (1006)."])
    expect(page.get_by_text(re.compile(r"Next try in \d+ s"))).to_be_visible()
    for text in ("first", "second", "not this one", "third"):
        say(page, text)
    waiting(page).nth(2).get_by_role("button", name="Discard").click()
    typed = ["Ada: first", "Ada: second", "Ada: third"]
    expect_texts(waiting(page), typed)
    with serving(port=server.port) as again:
        expect_open(page)
        expect_texts(log(page), ["Ada: before", *typed])
        expect(waiting(page)).to_have_count(0)
        with terminal(again, "/lobby") as other:
            assert [other.recv(PATIENCE) for _ in typed] == typed


def test_page_sends_again_what_a_dying_server_took_but_never_published(window: Window) -> None:
    with serving() as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        server.process.send_signal(signal.SIGSTOP)
        say(page, "into the void")
        expect(waiting(page).get_by_text("unconfirmed")).to_be_visible()
        server.kill()
    expect(state(page)).to_have_text("CLOSED")
    expect_texts(waiting(page), ["into the void"])
    with serving(port=server.port):
        expect_open(page)
        expect_texts(log(page), ["into the void"])
        expect(waiting(page)).to_have_count(0)


@pytest.mark.parametrize("speaks", [True, False], ids=["protocol", "plain"])
def test_page_neither_repeats_the_history_nor_sends_again_what_is_in_it(
    shared: Server, window: Window, speaks: bool
) -> None:
    """The connection dies behind a network that took the page's message and kept its echo."""
    routes: list[WebSocketRoute] = []
    deaf = False

    def route(page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()
        server_side.on_message(lambda message: None if deaf else page_side.send(message))
        routes.append(page_side)

    page = window()
    topic = f"history-{speaks}"
    page.route_web_socket(re.compile("/connection/websocket$" if speaks else f"/{topic}$"), route)
    if not speaks:
        without_protocol(page)
    page.goto(f"{shared.url}{topic}")
    expect_open(page)
    with terminal(shared, f"/{topic}") as other:
        for text in ("one", "two"):
            say(page, text)
        expect_texts(log(page), ["one", "two"])
        deaf = True
        say(page, "three")
        for text in ("one", "two", "three"):
            assert other.recv(PATIENCE) == text
        other.send("four")
        assert other.recv(PATIENCE) == "four"
        expect_texts(waiting(page), ["three"])
        deaf = False
        routes[0].close(code=4000, reason="the network fails")
        again = "Connected again. 2 missed, 2 recovered." if speaks else "Connected again."
        expect(notes(page)).to_contain_text(["Connection closed (4000: the network fails).", again])
        expect(notes(page).get_by_text("missing")).to_have_count(0)
        expect_texts(log(page), ["one", "two", "three", "four"])
        expect(waiting(page)).to_have_count(0)
        say(page, "five")
        assert other.recv(PATIENCE) == "five"


def test_page_says_that_messages_may_be_missing_without_a_history(window: Window) -> None:
    with serving("--history", "0") as server:
        page = window()
        without_protocol(page)
        page.goto(f"{server.url}lobby")
        expect_open(page)
        say(page, "seen")
        expect_texts(log(page), ["seen"])
        page.get_by_role("button", name="Disconnect").click()
        expect(state(page)).to_have_text("CLOSED")
        with terminal(server, "/lobby") as other:
            other.send("missed")
            assert other.recv(PATIENCE) == "missed"
        page.get_by_role("button", name="Connect", exact=True).click()
        expect(notes(page)).to_contain_text(["Connected again. Messages may be missing here."])
        expect_texts(log(page), ["seen"])


def test_page_shows_1012_when_the_server_is_terminated_in_mid_chat(window: Window) -> None:
    with serving() as server:
        pages = [window(f"{server.url}lobby") for _ in range(2)]
        for page in pages:
            expect_open(page)
            say(page, "hello")
        for page in pages:
            expect_texts(log(page), ["hello", "hello"])
        server.terminate()
        for page in pages:
            expect(notes(page)).to_contain_text(["Connection closed (1012)."])
            expect(state(page)).to_have_text("CLOSED")
    assert server.process.returncode == 0
    with serving(port=server.port):
        for page in pages:
            expect_open(page)


def test_page_shows_code_and_reason_and_gives_up_a_message_that_is_too_large(
    window: Window,
) -> None:
    with serving("--max-message-bytes", "200") as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        large = "x" * 201
        say(page, large)
        expect(notes(page)).to_contain_text(
            ["Connection closed (1009: message over 200 bytes).", "Connected again."]
        )
        expect(waiting(page).get_by_text("too large")).to_be_visible()
        say(page, "small")
        expect_texts(log(page), ["small"])
        expect_texts(waiting(page), [large])


@pytest.mark.parametrize("speaks", [True, False], ids=["protocol", "plain"])
def test_page_shows_its_own_messages_once_when_the_server_does_not_echo(
    window: Window, speaks: bool
) -> None:
    with serving("--no-echo") as server:
        pages = [window(), window()]
        for page in pages:
            if not speaks:
                without_protocol(page)
            page.goto(f"{server.url}lobby")
            expect_open(page)
        say(pages[0], "mine")
        expect_texts(log(pages[1]), ["mine"])
        say(pages[1], "yours")
        for page in pages:
            expect_texts(log(page), ["mine", "yours"])
            expect(waiting(page)).to_have_count(0)


def test_page_is_opened_with_a_cookie_and_has_nothing_to_write_with_where_one_may_only_read(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = tmp_path / "topics.toml"
    topics.write_text("[chat]\npublish = true\n[news]\n")
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", secret := "0123456789abcdef0123456789abcdef")
    with serving("--topics", str(topics)) as server:
        page = window()
        answer = page.goto(f"{server.url}chat:a")
        assert answer is not None
        assert answer.status == 401
        cookie = jwt.encode({"sub": "ann"}, secret, "HS256")
        page.context.add_cookies(
            [{"name": "trioweb_token", "value": cookie, "url": server.url, "httpOnly": True}]
        )
        page.goto(f"{server.url}chat:a")
        expect_open(page)
        say(page, "hello")
        expect_texts(log(page), ["hello"])
        page.goto(f"{server.url}news:a")
        expect_open(page)
        expect(page.get_by_role("form")).to_have_count(0)


def test_page_shows_binary_messages_as_size_and_bytes(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}binary")
    expect_open(page)
    with terminal(shared, "/binary") as other:
        other.send(b"\x00\x7f\xff")
        other.send(b"")
        other.send(bytes(range(100)))
        first = " ".join(f"{number:02x}" for number in range(32))
        expect_texts(log(page), ["3 bytes 00 7f ff", "0 bytes", f"100 bytes {first} …"])


def test_page_interprets_no_html(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}html")
    expect_open(page)
    attacks = [
        "<img src=x onerror='window.hacked = true'>",
        "<script>window.hacked = true</script>",
        "x<b onmouseover=hacked()>Eve</b>: <i>hello</i> &amp; goodbye",
    ]
    with terminal(shared, "/html") as other:
        for attack in attacks:
            other.send(attack)
        expect_texts(log(page), attacks)
    say(page, attacks[0], name="<i>Eve</i>")
    expect(log(page)).to_have_count(4)
    assert page.evaluate("window.hacked") is None
    assert log(page).locator("img, script, i, b b, span *").count() == 0


def test_page_remembers_the_name(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}names")
    say(page, "hello", name="Grace")
    expect_texts(log(page), ["Grace: hello"])
    page.reload()
    expect(page.get_by_label("Your name")).to_have_value("Grace")
    say(page, "again")
    expect_texts(log(page), ["Grace: hello", "Grace: again"])


def test_page_closes_with_1000_when_it_is_left(window: Window) -> None:
    with serving() as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        say(page, "hello")
        expect_texts(log(page), ["hello"])
        assert server.statistics()["connections"] == 1
        page.goto("about:blank")
        wait_until(lambda: server.statistics()["closed"] == {"1000": 1}, "Close 1000")
        assert server.statistics()["connections"] == 0


def test_page_reopens_when_the_browser_brings_it_back(shared: Server, window: Window) -> None:
    """Chromium keeps no pages for going back while it is driven, so the events are made."""
    page = window()
    page.add_init_script(_RECORD_STATES)
    page.goto(f"{shared.url}back")
    expect_open(page)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    expect(state(page)).to_have_text("CLOSED")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect_open(page)
    assert page.evaluate("shown") == [0, 1, 2, 3, 0, 1]


def test_page_backs_off_from_half_a_second_to_twenty(shared: Server, window: Window) -> None:
    """With the jitter at its upper end, in the browser's own virtual time."""
    page = window()
    page.clock.install(time=0)
    page.clock.pause_at(1)  # or it would run along with the real one, too
    page.add_init_script(_REFUSE_CONNECTIONS)
    page.goto(f"{shared.url}backoff")
    page.clock.run_for(120_000)
    attempts: list[int] = page.evaluate("attempts")
    waits = [later - sooner for sooner, later in pairwise(attempts)]
    expected = [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000, 20000, 20000]
    assert waits == pytest.approx(expected, abs=50)


def test_page_tries_at_once_when_the_network_is_back(shared: Server, window: Window) -> None:
    page = window()
    page.clock.install(time=0)
    page.clock.pause_at(1)
    page.add_init_script(_REFUSE_CONNECTIONS)
    page.goto(f"{shared.url}online")
    page.clock.run_for(40_000)
    before: int = page.evaluate("attempts.length")
    page.evaluate("dispatchEvent(new Event('online'))")
    assert page.evaluate("attempts.length") == before + 1


def test_page_follows_new_messages_unless_the_reader_scrolled_back(
    shared: Server, window: Window
) -> None:
    page = window(f"{shared.url}long")
    expect_open(page)
    newer = page.get_by_role("button", name="New messages")
    with terminal(shared, "/long") as other:
        for number in range(520):
            other.send(f"line {number}")
        expect(log(page).last).to_have_text(re.compile("^line 519"))
        # The page keeps the newest 500.
        expect(log(page)).to_have_count(500)
        expect(log(page).last).to_be_in_viewport()
        log(page).nth(100).scroll_into_view_if_needed()
        expect(log(page).last).not_to_be_in_viewport()
        other.send("while reading")
        expect(newer).to_be_visible()
        expect(log(page).last).not_to_be_in_viewport()
        newer.click()
        expect(log(page).last).to_be_in_viewport()
        expect(log(page).last).to_contain_text("while reading")
        expect(newer).to_be_hidden()


def test_page_fits_a_phone(shared: Server, window: Window) -> None:
    page = window()
    page.set_viewport_size({"width": 320, "height": 568})
    page.goto(f"{shared.url}a/topic/with/quite/a/long/name/for/such/a/small/screen")
    expect_open(page)
    say(page, "w" * 200, name="somebody with a long name")
    expect(log(page)).to_have_count(1)
    for part in ("html", "#scroll"):
        assert page.locator(part).evaluate("part => part.scrollWidth <= part.clientWidth")
    for control in (*page.get_by_role("button").all(), *page.get_by_role("textbox").all()):
        expect(control).to_be_in_viewport(ratio=1)


def test_page_keeps_what_somebody_reads_further_up_in_its_place(
    shared: Server, window: Window
) -> None:
    page = window(f"{shared.url}place")
    expect_open(page)
    with terminal(shared, "/place") as other:
        for number in range(100):
            other.send(f"line {number}")
        expect(log(page)).to_have_count(100)
        read = log(page).nth(50)
        read.scroll_into_view_if_needed()
        before = read.bounding_box()
        assert before is not None
        for number in range(20):
            other.send(f"while reading {number}")
        expect(log(page)).to_have_count(120)
        assert read.bounding_box() == pytest.approx(before, abs=1)


# The browser tells of a scrolling only at the next frame.
_ROW_AFTER_SCROLLING: Final = """row => {
    row.scrollIntoView();
    const before = row.getBoundingClientRect().y;
    note("just then");
    return row.getBoundingClientRect().y - before;
}"""


def test_page_keeps_its_place_for_a_message_right_after_scrolling(
    shared: Server, window: Window
) -> None:
    page = window(f"{shared.url}scrolled")
    expect_open(page)
    with terminal(shared, "/scrolled") as other:
        for number in range(100):
            other.send(f"line {number}")
        expect(log(page)).to_have_count(100)
    assert log(page).nth(50).evaluate(_ROW_AFTER_SCROLLING) == pytest.approx(0, abs=1)


_CHARACTERS: Final = """[
    document.getElementById("log").textContent.length,
    seen.reduce((sum, text) => sum + text.length, 0),
]"""


def test_page_keeps_a_bounded_number_of_characters(window: Window) -> None:
    """As many rows as it may have, of a million characters each, would be half a gigabyte."""
    with serving() as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        with terminal(server, "/lobby") as other:
            for number in range(150):
                other.send(f"mallory: {number} " + "w" * 20_000)
                if number % 10 == 9:  # or the page might be too slow for the server
                    expect(log(page).last).to_contain_text(f"mallory{number} ")
        shown, kept = page.evaluate(_CHARACTERS)
        assert 2**19 < shown <= 2**20 and 2**19 < kept <= 2**20
        expect(log(page).last).to_contain_text(re.compile(r"^mallory149 w+… \(100\d\d more char"))
        # What was shortened is known again after a reconnect.
        count = log(page).count()
        page.get_by_role("button", name="Disconnect").click()
        page.get_by_role("button", name="Connect", exact=True).click()
        expect(notes(page).last).to_contain_text(re.compile(r"^Connected again\.\d"))
        assert log(page).count() == count
