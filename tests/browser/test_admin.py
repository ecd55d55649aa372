"""The admin page of `trioweb serve` in a real Chromium, against the real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.browser.support import Window
from tests.browser.test_accessibility import LEAST_CONTRAST, SCHEMES, complaints, least_contrast
from tests.interop.serving import PATIENCE, Server, serving
from tests.processes import free_port

pytestmark = pytest.mark.browser

KEY: Final = "the-key-of-the-admin"
HOSTILE: Final = "<img src=x onerror=alert(1)>"
SIZES: Final = {"large": (1100, 800), "small": (320, 568)}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("admin") / "keys"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture(scope="module")
def shared(key_file: Path) -> Iterator[Server]:
    """A server for the tests that leave it running; each uses topics of its own."""
    with serving("--admin-key-file", str(key_file)) as server:
        yield server


def subscribe(server: Server, path: str) -> ClientConnection:
    # With room for what a test does not read, or closing would wait for it.
    return connect(server.ws(path), open_timeout=PATIENCE, max_queue=None)


def enter(page: Page, key: str = KEY) -> None:
    page.get_by_label("Admin key").fill(key)
    page.keyboard.press("Enter")


def expect_in(page: Page) -> None:
    expect(page.get_by_label("Connection", exact=True)).to_have_text("OPEN")
    # Figures have come.
    expect(page.get_by_text(re.compile("^Node .* alone, up for"))).to_be_visible()


@contextmanager
def office(window: Window, server: Server, **options: Any) -> Iterator[Page]:
    page = window(f"{server.url}admin", **options)
    enter(page)
    expect_in(page)
    yield page


def topic_row(page: Page, name: str) -> Locator:
    page.get_by_label("Search topics").fill(name)
    return page.locator("#topics tbody tr").filter(has_text=name)


def connection_row(page: Page, topic: str) -> Locator:
    page.get_by_label("Search connections").fill(topic)
    return page.locator("#connections tbody tr").filter(has_text=topic)


# The key.


def test_page_shows_nothing_without_the_key(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}admin")
    expect(page.get_by_label("Admin key")).to_be_focused()
    enter(page, "a-key-that-is-none-of-them")
    expect(page.get_by_text("This is no admin key.")).to_be_visible()
    expect(page.get_by_label("Admin key")).to_be_focused()
    expect(page.get_by_role("table")).to_have_count(0)
    assert page.evaluate("Object.keys(sessionStorage)") == []


def test_key_is_kept_for_this_tab_alone_and_stands_in_no_address(
    shared: Server, window: Window
) -> None:
    with office(window, shared) as page:
        opened: list[str] = []
        page.on("websocket", lambda socket: opened.append(socket.url))
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.reload()
        expect_in(page)
        assert opened == [shared.ws("/admin/socket")]
        assert requested == [f"{shared.url}admin"]
        assert page.evaluate("[Object.keys(localStorage), document.cookie, $('key').value]") == [
            [],
            "",
            "",
        ]
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("Signed out.")).to_be_visible()
        expect(page.get_by_role("table")).to_have_count(0)
        assert page.evaluate("Object.keys(sessionStorage)") == []
        page.reload()
        expect(page.get_by_label("Admin key")).to_be_visible()


def test_page_cannot_be_framed_and_runs_its_own_script_alone(shared: Server) -> None:
    answer = httpx.get(f"{shared.url}admin", timeout=PATIENCE)
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("metrics", "stats"):
        assert KEY not in httpx.get(f"{shared.url}{path}", timeout=PATIENCE).text


def test_without_admin_keys_there_is_no_page(window: Window) -> None:
    with serving() as server:
        assert httpx.get(f"{server.url}admin", timeout=PATIENCE).status_code == 404
        assert httpx.get(f"{server.url}metrics", timeout=PATIENCE).status_code == 404


def test_metrics_on_the_public_port_need_the_key(shared: Server) -> None:
    url = f"{shared.url}metrics"
    assert httpx.get(url, timeout=PATIENCE).status_code == 401
    answer = httpx.get(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE)
    assert answer.status_code == 200 and "trioweb_connections" in answer.text


def test_admin_may_have_an_address_of_its_own(key_file: Path, window: Window) -> None:
    port = free_port()
    options = ("--admin-key-file", str(key_file), "--admin", f"127.0.0.1:{port}")
    with serving(*options) as server:
        assert httpx.get(f"{server.url}admin", timeout=PATIENCE).status_code == 404
        assert httpx.get(f"{server.url}metrics", timeout=PATIENCE).status_code == 404
        with pytest.raises(Exception, match="404"):
            subscribe(server, "/admin/socket")
        page = window(f"http://127.0.0.1:{port}/")
        assert page.url == f"http://127.0.0.1:{port}/admin"
        enter(page)
        expect_in(page)
        with subscribe(server, "/elsewhere"):
            expect(topic_row(page, "elsewhere")).to_have_count(1)


# What is shown.


def test_figures_topics_and_connections_are_shown_as_they_change(
    shared: Server, window: Window
) -> None:
    with office(window, shared) as page, subscribe(shared, "/figures") as other:
        expect(connection_row(page, "figures")).to_have_count(1)
        row = topic_row(page, "figures")
        expect(row.locator("td").nth(4)).to_have_text("1")
        for _ in range(3):
            other.send("hello")
            assert other.recv(PATIENCE) == "hello"
        expect(row.locator("td").nth(1)).to_have_text("3")
        chart = page.locator("[data-figure=connections]")
        expect(chart.locator("b")).to_have_text(re.compile(r"^\d+$"))
        expect(chart.locator("polyline")).to_have_attribute("points", re.compile(r"\d+,\d"))


def test_what_others_chose_is_text(shared: Server, window: Window) -> None:
    path = "/%3Cimg%20src=x%20onerror=alert(1)%3E"
    with office(window, shared) as page, subscribe(shared, path) as other:
        page.evaluate("() => { window.alert = () => { window.alerted = true; }; }")
        other.send(HOSTILE)
        assert other.recv(PATIENCE) == HOSTILE
        row = topic_row(page, HOSTILE)
        expect(connection_row(page, HOSTILE)).to_have_count(1)
        row.get_by_role("button").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading")).to_have_text(HOSTILE)
        expect(dialog.get_by_label("Newest publications")).to_contain_text(HOSTILE)
        # A user is the server's word; here it says what a peer could have had it say.
        page.evaluate(
            """(hostile) => connections.show({total: 1, found: 1, rows: [{id: hostile,
                address: hostile, user: hostile, topics: [hostile], subscriptions: 1, path: hostile,
                age: 1, rtt: null, queued: 0, lag: 0, received: 0, traced: false}]})""",
            HOSTILE,
        )
        expect(page.locator("#connections tbody")).to_contain_text(HOSTILE)
        assert page.locator("img").count() == 0
        assert page.evaluate("window.alerted") is None


def test_page_is_back_after_an_outage(key_file: Path, window: Window) -> None:
    with serving("--admin-key-file", str(key_file)) as server:
        page = window(f"{server.url}admin")
        enter(page)
        expect_in(page)
        port = server.port
        server.kill()
    expect(page.get_by_text("trying again")).to_be_visible()
    with serving("--admin-key-file", str(key_file), port=port):
        expect_in(page)


# What is done.


def test_connection_is_closed_with_the_code_that_was_typed(shared: Server, window: Window) -> None:
    with office(window, shared) as page, subscribe(shared, "/closing") as other:
        connection_row(page, "closing").get_by_role("button", name=re.compile("^Close")).click()
        dialog = page.get_by_role("dialog", name="Close a connection")
        dialog.get_by_label("Code").fill("4001")
        dialog.get_by_label("Reason").fill("enough")
        dialog.get_by_role("button", name="Close the connection").click()
        with pytest.raises(ConnectionClosed):
            other.recv(PATIENCE)
        assert (other.close_code, other.close_reason) == (4001, "enough")
        done = re.compile("^Closed the connection of .* with 4001")
        expect(page.get_by_text(done)).to_be_visible()
        expect(connection_row(page, "closing")).to_have_count(0)


def test_message_is_published_from_the_page(shared: Server, window: Window) -> None:
    with office(window, shared) as page, subscribe(shared, "/publishing") as other:
        topic_row(page, "publishing").get_by_role("button").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_label("Message")).to_be_focused()
        page.keyboard.type("hello from the admin")
        dialog.get_by_role("button", name="Publish").click()
        assert other.recv(PATIENCE) == "hello from the admin"
        expect(dialog.get_by_text("Published to publishing.")).to_be_visible()
        expect(dialog.get_by_label("Newest publications")).to_contain_text("hello from the admin")
        dialog.get_by_label("Kind").select_option("json")
        dialog.get_by_label("Message").fill("{")
        dialog.get_by_role("button", name="Publish").click()
        expect(dialog.get_by_text("Not done: this is not JSON")).to_be_visible()


def test_frames_of_a_connection_are_logged(shared: Server, window: Window, key_file: Path) -> None:
    with office(window, shared) as page, subscribe(shared, "/tracing") as other:
        row = connection_row(page, "tracing")
        button = row.get_by_role("button", name=re.compile("^Log frames"))
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        other.send("hello")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")


def test_drain_ends_the_server(key_file: Path, window: Window) -> None:
    with serving("--admin-key-file", str(key_file)) as server:
        page = window(f"{server.url}admin")
        enter(page)
        expect_in(page)
        with subscribe(server, "/lobby") as other:
            page.get_by_role("button", name="Drain…").click()
            dialog = page.get_by_role("dialog", name="Drain the server")
            dialog.get_by_role("button", name="Drain").click()
            with pytest.raises(ConnectionClosed):
                other.recv(PATIENCE)
            assert other.close_code == 1012
        assert server.process.wait(PATIENCE) == 0
        expect(page.get_by_text("The server has drained and ended.")).to_be_visible()


_ASK_FOR_EVERYTHING: Final = """([url, key]) => new Promise((resolve) => {
    const socket = new WebSocket(url, "centrifuge-json"), said = [];
    socket.onopen = () => {
        socket.send(JSON.stringify({id: 1, connect: {token: key}}));
        socket.send(JSON.stringify({id: 2, rpc: {method: "topics", data: {}}}));
        const data = {topic: "a", text: "b", id: "c"};
        ["publish", "close", "trace", "drain"].forEach((method, index) =>
            socket.send(JSON.stringify({id: 3 + index, rpc: {method, data}})));
    };
    socket.onmessage = ({data}) => {
        const lines = data.split("\\n").filter((line) => line !== "{}");
        said.push(...lines.map((line) => JSON.parse(line)));
        if (said.length === 6) { socket.close(); resolve(said); }
    };
    socket.onclose = ({code}) => resolve([...said, code]);
})"""


def test_page_of_another_origin_that_is_listed_watches_and_changes_nothing(
    key_file: Path, window: Window
) -> None:
    with serving() as other:
        options = ("--admin-key-file", str(key_file), "--origin", other.url.removesuffix("/"))
        with serving(*options) as server:
            page = window(f"{other.url}healthz")
            said = page.evaluate(_ASK_FOR_EVERYTHING, [server.ws("/admin/socket"), KEY])
            assert len(said) == 6, said
            by_id = {reply["id"]: reply for reply in said}
            assert "rows" in by_id[2]["rpc"]["data"]
            assert [by_id[id]["error"]["code"] for id in (3, 4, 5, 6)] == [103] * 4


# For everybody.


def test_everything_can_be_done_without_a_mouse(shared: Server, window: Window) -> None:
    with office(window, shared) as page, subscribe(shared, "/keyboard-b") as other:
        with subscribe(shared, "/keyboard-a"):
            expect(page.get_by_label("Search topics")).to_be_focused()
            page.keyboard.type("keyboard")
            rows = page.locator("#topics tbody tr")
            expect(rows).to_have_count(2)
            page.keyboard.press("Tab")
            expect(page.get_by_role("region", name="Table of topics")).to_be_focused()
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            header = page.locator("#topics thead th").first
            expect(header).to_have_attribute("aria-sort", "ascending")
            expect(rows.first).to_contain_text("keyboard-a")
            page.keyboard.press("Enter")
            expect(header).to_have_attribute("aria-sort", "descending")
            expect(rows.first).to_contain_text("keyboard-b")
            # The focus stays while the figures change.
            expect(header.get_by_role("button")).to_be_focused()
            first = rows.first.get_by_role("button")
            first.focus()
            other.send("news")
            expect(rows.first.locator("td").nth(1)).to_have_text("1")
            expect(first).to_be_focused()
            page.keyboard.press("Enter")
            expect(page.get_by_role("dialog").get_by_label("Message")).to_be_focused()
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_have_count(0)
            expect(first).to_be_focused()


def test_focus_stays_when_a_row_moves(shared: Server, window: Window) -> None:
    with office(window, shared) as page:
        with subscribe(shared, "/moving-a") as ann, subscribe(shared, "/moving-b") as bob:
            page.get_by_label("Search topics").fill("moving")
            page.get_by_role("button", name="Head").click()
            for count, (one, topic) in enumerate([(ann, "a"), (bob, "b"), (bob, "b")], 1):
                one.send("x")
                assert one.recv(PATIENCE) == "x"
                if count == 1:
                    first = page.locator("#topics tbody tr").first
                    expect(first).to_contain_text(f"moving-{topic}")
                    page.get_by_role("button", name="moving-a").focus()
            expect(page.locator("#topics tbody tr").first).to_contain_text("moving-b")
            expect(page.get_by_role("button", name="moving-a")).to_be_focused()


@pytest.mark.axe
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_page_is_accessible_in_each_of_its_states(
    shared: Server, window: Window, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    page = window(f"{shared.url}admin", **look)
    assert complaints(page) == []
    enter(page, "a-key-that-is-none-of-them")
    expect(page.get_by_text("This is no admin key.")).to_be_visible()
    assert complaints(page) == []
    with subscribe(shared, f"/axe-{scheme}-{size}") as other:
        enter(page)
        expect_in(page)
        other.send("hello")
        row = topic_row(page, f"axe-{scheme}-{size}")
        expect(row).to_have_count(1)
        close = connection_row(page, f"axe-{scheme}-{size}").get_by_role(
            "button", name=re.compile("^Close")
        )
        expect(close).to_have_count(1)
        assert complaints(page) == []
        # Nothing but the tables is wider than the page, and these scroll by themselves.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        row.get_by_role("button").click()
        expect(page.get_by_label("Newest publications")).to_contain_text("hello")
        assert complaints(page) == []
        page.keyboard.press("Escape")
        close.click()
        assert complaints(page) == []
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Drain…").click()
        assert complaints(page) == []
        page.keyboard.press("Escape")
    expect(row.locator("td").nth(4)).to_have_text("0")
    for selector in (
        "#charts span",
        "#charts b",
        "#where",
        "thead button",
        "th button.link",
        "h2 small",
    ):
        assert least_contrast(page, selector) >= LEAST_CONTRAST
