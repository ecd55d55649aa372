"""What the chat page knows by the protocol: who is here, and what was missed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection, connect

from tests.browser.support import (
    Window,
    expect_open,
    expect_texts,
    log,
    names,
    notes,
    people,
    say,
    state,
    waiting,
    without_protocol,
)
from tests.interop.serving import PATIENCE, Server, serving

pytestmark = pytest.mark.browser

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving() as server:
        yield server


def terminal(server: Server, path: str) -> ClientConnection:
    return connect(server.ws(path), open_timeout=PATIENCE, max_queue=None)


def call(page: Page, name: str) -> None:
    """Give whoever uses *page* a name."""
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Tab")


# Who is here.


def test_page_shows_who_is_here_as_they_come_and_go(shared: Server, window: Window) -> None:
    ada = window(f"{shared.url}people")
    expect(people(ada)).to_have_text("1 here")
    expect(names(ada)).to_have_text(["you"])
    bob = window(f"{shared.url}people")
    expect(people(ada)).to_have_text("2 here")
    expect(names(ada)).to_have_text(["you", "1 without a name"])
    call(bob, "Bob")
    expect(names(ada)).to_have_text(["you", "Bob"])
    call(ada, "Ada")
    expect(names(bob)).to_have_text(["Bob (you)", "Ada"])
    expect(names(ada)).to_have_text(["Ada (you)", "Bob"])
    with terminal(shared, "/people"):
        expect(names(ada)).to_have_text(["Ada (you)", "Bob", "1 without a name"])
    expect(people(ada)).to_have_text("2 here")
    # Nothing was missed meanwhile, so nothing is said of that.
    say(bob, "hello")
    expect_texts(log(ada), ["Bob: hello"])
    expect(notes(ada)).to_have_count(0)
    expect(notes(bob)).to_have_count(0)
    # It is another topic's business who is there.
    elsewhere = window(f"{shared.url}elsewhere")
    expect(people(elsewhere)).to_have_text("1 here")
    bob.goto("about:blank")
    expect(names(ada)).to_have_text(["Ada (you)"])
    # Who is not connected knows of nobody.
    ada.get_by_role("button", name="Disconnect").click()
    expect(state(ada)).to_have_text("CLOSED")
    expect(people(ada)).to_be_hidden()


def test_page_shows_names_as_text(shared: Server, window: Window) -> None:
    ada, eve = window(f"{shared.url}names"), window(f"{shared.url}names")
    expect_open(ada)
    expect_open(eve)
    attack = "<img src=x onerror=hacked=1>"
    call(eve, attack)
    expect(names(ada)).to_have_text(["you", attack])
    assert ada.evaluate("window.hacked") is None
    assert ada.locator("#people img").count() == 0


def test_page_names_no_more_people_than_can_be_read(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}crowd")
    expect(people(page)).to_have_text("1 here")
    page.evaluate(
        """() => {
            for (let n = 0; n < 300; n++) people.set(`c${n}`, `n${String(n).padStart(3, "0")}`);
            people.set("again", "n000");
            showPeople(1000);
        }"""
    )
    expect(people(page)).to_have_text("1000 here")
    expect(names(page)).to_have_count(102)
    expect(names(page).nth(1)).to_have_text("n000 (2 times)")
    expect(names(page).nth(100)).to_have_text("201 more names")
    expect(names(page).nth(101)).to_have_text("698 without a name")


def test_list_of_people_is_opened_and_scrolled_by_the_keyboard(
    shared: Server, window: Window
) -> None:
    page = window(f"{shared.url}keys", viewport={"width": 320, "height": 568})
    expect(people(page)).to_have_text("1 here")
    page.evaluate(
        "() => { for (let n = 0; n < 90; n++) people.set(n, `name ${n}`); showPeople(91); }"
    )
    people(page).focus()
    page.keyboard.press("Enter")
    shown = page.get_by_label("Who is here")
    expect(shown).to_be_in_viewport(ratio=1)
    page.keyboard.press("Tab")
    expect(shown).to_be_focused()
    page.keyboard.press("End")
    expect(names(page).last).to_be_in_viewport()
    assert page.locator("html").evaluate("part => part.scrollWidth <= part.clientWidth")


def test_page_goes_by_rules_and_tokens(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = tmp_path / "topics.toml"
    topics.write_text(
        "[chat]\npublish = true\npresence = true\nhistory = true\njoin_leave = true\n"
        "[quiet]\npublish = true\n[open]\nanonymous = true\npresence = true\n"
    )
    monkeypatch.setenv("TRIOWEB_TOKEN_SECRET", SECRET)
    with serving("--topics", str(topics)) as server:
        pages = []
        for user in ("ann", "bob"):
            page = window()
            cookie = jwt.encode({"sub": user}, SECRET, "HS256")
            page.context.add_cookies(
                [{"name": "trioweb_token", "value": cookie, "url": server.url, "httpOnly": True}]
            )
            page.goto(f"{server.url}chat:a")
            expect_open(page)
            pages.append(page)
        ann, bob = pages
        # Nobody can call themselves what they are not.
        call(bob, "ann")
        expect(names(ann)).to_have_text(["ann (you)", "bob"])
        say(bob, "hello")
        expect_texts(log(ann), ["ann: hello"])
        # Where nobody may see who is here, and what was, it chats all the same.
        for page in pages:
            page.goto(f"{server.url}quiet:a")
            expect_open(page)
        say(ann, "psst")
        expect(log(bob)).to_have_count(1)
        expect(people(ann)).to_be_hidden()
        ann.get_by_role("button", name="Disconnect").click()
        expect(state(ann)).to_have_text("CLOSED")
        say(bob, "missed")
        expect(log(bob)).to_have_count(2)
        ann.get_by_role("button", name="Connect", exact=True).click()
        expect(log(ann).get_by_text("missed")).to_be_visible()
        # And without a token, where that is allowed; without rules for coming and going, too.
        guest = window(f"{server.url}open:a")
        expect(people(guest)).to_have_text("1 here")
        expect(guest.get_by_role("form")).to_have_count(0)


# What was missed.


@pytest.mark.parametrize("count", [1, 3, 100])
def test_page_says_how_much_was_missed_and_recovers_it(
    shared: Server, window: Window, count: int
) -> None:
    page = window(f"{shared.url}missed-{count}")
    expect_open(page)
    say(page, "before")
    expect_texts(log(page), ["before"])
    page.get_by_role("button", name="Disconnect").click()
    expect(state(page)).to_have_text("CLOSED")
    texts = [f"missed {number}" for number in range(count)]
    with terminal(shared, f"/missed-{count}") as other:
        for text in texts:
            other.send(text)
            while other.recv(PATIENCE) != text:
                pass
    page.get_by_role("button", name="Connect", exact=True).click()
    expect_texts(log(page), ["before", *texts])
    expect(notes(page)).to_have_count(1)
    expect(notes(page)).to_contain_text(
        re.compile(rf"^Connected again\. {count} missed, {count} recovered\.\d")
    )


def test_page_says_that_messages_are_lost(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}lost")
    expect_open(page)
    say(page, "before")
    expect_texts(log(page), ["before"])
    page.get_by_role("button", name="Disconnect").click()
    expect(state(page)).to_have_text("CLOSED")
    with terminal(shared, "/lost") as other:
        for number in range(1100):
            other.send(f"{number}")
            while other.recv(PATIENCE) != f"{number}":
                pass
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(notes(page)).to_contain_text(
        "Connected again. 1100 missed, 300 recovered: some messages are lost."
    )
    expect(log(page)).to_have_count(301)
    expect(log(page).last).to_contain_text(re.compile("^1099"))
    say(page, "after")
    expect(log(page).last).to_contain_text(re.compile("^after"))
    expect(waiting(page)).to_have_count(0)


def test_page_says_that_a_server_that_began_anew_may_have_lost_messages(window: Window) -> None:
    with serving() as server:
        page = window(f"{server.url}lobby")
        expect_open(page)
        say(page, "before")
        expect_texts(log(page), ["before"])
        server.kill()
    with serving(port=server.port) as again:
        with terminal(again, "/lobby") as other:
            other.send("new")
            expect(notes(page).last).to_contain_text("Connected again. Some messages are lost.")
            expect_texts(log(page), ["before", "new"])


def test_newcomer_sees_the_end_of_the_history(window: Window) -> None:
    with serving("--history", "2") as server:
        with terminal(server, "/lobby") as other:
            for text in ("one", "two", "three"):
                other.send(text)
                while other.recv(PATIENCE) != text:
                    pass
        page = window(f"{server.url}lobby")
        expect_texts(log(page), ["two", "three"])
        expect(notes(page)).to_have_count(0)


def test_page_chats_where_the_protocol_has_no_name_for_the_topic(
    shared: Server, window: Window
) -> None:
    page = window(shared.url)
    expect_open(page)
    say(page, "hello")
    expect(log(page).last).to_contain_text(re.compile("^hello"))
    expect(people(page)).to_be_hidden()


def test_page_without_the_protocol_shares_the_topic(shared: Server, window: Window) -> None:
    plain = window()
    without_protocol(plain)
    plain.goto(f"{shared.url}both")
    page = window(f"{shared.url}both")
    expect_open(plain)
    expect(people(page)).to_have_text("2 here")
    expect(people(plain)).to_be_hidden()
    say(plain, "from the plain one")
    say(page, "from the other")
    for each in (plain, page):
        expect(log(each)).to_have_count(2)
        expect(waiting(each)).to_have_count(0)
