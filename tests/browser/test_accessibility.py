"""Who sees little, hears the page, or has no mouse can use every page: that of `trioweb serve`, and
those of the examples.  axe-core judges, and what it cannot see is measured here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import connect

from tests.browser.support import Window, expect_open, log, names, say, state, waiting
from tests.examples.support import running
from tests.interop.javascript import axe_path
from tests.interop.serving import PATIENCE, Server, serving

pytestmark = pytest.mark.browser

SCHEMES: Final = ("light", "dark")
NAMES: Final = ("Ada", "Bob", "Zoë", "yellow", "Mallory", "q", "Kim", "Lea", "Tom")
# WCAG 2.2, level AA, and what axe-core holds for good beyond that.
TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LEAST_CONTRAST: Final = 4.5  # WCAG 2.2, 1.4.3

# Colours as they are on the screen: of each text that `selector` finds, with every hue there is,
# and of what is behind it.
_COLOURS: Final = """(selector) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const pixel = (...colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return Array.from(canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
    };
    const found = [];
    for (const text of document.querySelectorAll(selector)) {
        const behind = [];
        for (let at = text; at; at = at.parentElement) {
            behind.unshift(getComputedStyle(at).backgroundColor);
        }
        for (let hue = 0; hue < 360; hue++) {
            text.style.setProperty("--hue", hue);
            found.push([pixel(getComputedStyle(text).color), pixel(...behind)]);
        }
    }
    return found;
}"""

# As in a browser that does not know the newer way to name a colour.
_WITHOUT_SUPPORTS: Final = """() => {
    const [sheet] = document.styleSheets;
    for (let index = sheet.cssRules.length - 1; index >= 0; index--) {
        if (sheet.cssRules[index] instanceof CSSSupportsRule) sheet.deleteRule(index);
    }
}"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server for the tests that leave it running; each uses topics of its own."""
    with serving() as server:
        yield server


def complaints(page: Page) -> list[str]:
    """What axe-core finds on the page as it stands now."""
    path = axe_path()
    assert path is not None
    page.evaluate(path.read_text())
    result = page.evaluate(f"axe.run(document, {{runOnly: {TAGS}}})")
    return [
        f"{found['id']} ({found['impact']}): {[node['html'] for node in found['nodes']]}"
        for found in result["violations"]
    ]


def luminance(colour: list[int]) -> float:
    """WCAG 2.2, "relative luminance"."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (number / 255 for number in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def least_contrast(page: Page, selector: str) -> float:
    """The contrast of the text that is the hardest to read, over all hues."""
    pairs: list[tuple[list[int], list[int]]] = page.evaluate(_COLOURS, selector)
    assert pairs
    ratios = []
    for pair in pairs:
        darker, lighter = sorted(map(luminance, pair))
        ratios.append((lighter + 0.05) / (darker + 0.05))
    return min(ratios)


def fill(server: Server, page: Page, topic: str) -> None:
    """Have others and the page itself say something."""
    expect_open(page)
    with connect(server.ws(f"/{topic}"), open_timeout=PATIENCE, max_queue=None) as other:
        for name in NAMES:
            other.send(f"{name}: hello there, {name}")
        other.send(b"\x00\xff")
    say(page, "mine", name="Ada")
    expect(log(page)).to_have_count(len(NAMES) + 2)


# axe-core.


@pytest.mark.axe
@pytest.mark.parametrize("size", [(1000, 700), (320, 568)], ids=["large", "small"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_chat_page_is_accessible_in_each_of_its_states(
    window: Window, scheme: str, size: tuple[int, int]
) -> None:
    with serving("--max-message-bytes", "200") as server:
        page = window(
            f"{server.url}lobby",
            color_scheme=scheme,
            viewport={"width": size[0], "height": size[1]},
        )
        expect_open(page)
        assert complaints(page) == []
        fill(server, page, "lobby")
        say(page, "x" * 201)
        expect(waiting(page).get_by_text("too large")).to_be_visible()
        expect_open(page)
        assert complaints(page) == []
        log(page).first.scroll_into_view_if_needed()
        assert complaints(page) == []
        page.evaluate(
            """() => {
                for (let n = 0; n < 90; n++) people.set(n, `name ${n}`);
                showPeople(200);
            }"""
        )
        expect(names(page).last).to_have_text("109 without a name")
        assert complaints(page) == []
        server.kill()
    expect(state(page)).to_have_text("CLOSED")
    say(page, "typed meanwhile")
    assert complaints(page) == []
    page.get_by_role("button", name="Disconnect").or_(
        page.get_by_role("button", name="Connect", exact=True)
    ).click()
    assert complaints(page) == []


@pytest.mark.axe
@pytest.mark.network
@pytest.mark.parametrize("size", [(1000, 700), (320, 568)], ids=["large", "small"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_of_the_examples_are_accessible(
    window: Window, scheme: str, size: tuple[int, int]
) -> None:
    look = {"color_scheme": scheme, "viewport": {"width": size[0], "height": size[1]}}
    with running("chat_server.py") as chat:
        page = window(chat.url, **look)
        assert complaints(page) == []
        page = window(f"{chat.url}?name=Ada", **look)
        page.get_by_text("* Ada joined").wait_for()
        other = window(f"{chat.url}?name=Bob")
        for place, text in (page, "hello"), (other, "hi"), (other, "/msg Ada a secret"):
            place.get_by_label("Message", exact=True).fill(text)
            place.keyboard.press("Enter")
        page.get_by_text("a secret").wait_for()
        for number in range(30):
            page.get_by_label("Message", exact=True).fill(f"line {number}")
            page.keyboard.press("Enter")
        page.get_by_text("line 29").wait_for()
        assert complaints(page) == []
        other.close()
    page.get_by_text("trying again").or_(page.get_by_text("connecting")).wait_for()
    assert complaints(page) == []
    with running("dashboard.py") as dashboard:
        page = window(f"{dashboard.url}?uid=ada", **look)
        page.get_by_text("Watching: ada").wait_for()
        assert complaints(page) == []
    page.locator(".stale").wait_for()
    assert complaints(page) == []


# Contrast, of which axe-core sees only the names that happen to be there.


@pytest.mark.parametrize("scheme", SCHEMES)
def test_chat_page_gives_every_name_a_colour_that_can_be_read(
    shared: Server, window: Window, scheme: str
) -> None:
    page = window(f"{shared.url}contrast-{scheme}", color_scheme=scheme)
    fill(shared, page, f"contrast-{scheme}")
    texts = ("b", "span", "time")
    for text in texts:
        for bubble in ("li.mine", "li:not(.mine)"):
            assert least_contrast(page, f"#log {bubble} {text}") >= LEAST_CONTRAST
    names = "#log li b"
    modern = page.evaluate(_COLOURS, names)
    page.evaluate(_WITHOUT_SUPPORTS)
    assert page.evaluate(_COLOURS, names) != modern
    assert least_contrast(page, names) >= LEAST_CONTRAST


@pytest.mark.network
@pytest.mark.parametrize("scheme", SCHEMES)
def test_chat_example_gives_every_name_a_colour_that_can_be_read(
    window: Window, scheme: str
) -> None:
    with running("chat_server.py") as chat:
        page = window(f"{chat.url}?name=Ada", color_scheme=scheme)
        page.get_by_text("* Ada joined").wait_for()
        bubbles = page.evaluate(
            """() => {
                for (const line of ["Ada: own", "Bob: other", "Bob → Ada: private"]) show(line);
                return document.querySelectorAll("#log li b").length;
            }"""
        )
        assert bubbles == 3
        assert least_contrast(page, "#log li b") >= LEAST_CONTRAST
        page.close()


# What is read out.


def test_chat_page_writes_its_live_region_only_when_that_changes(window: Window) -> None:
    """A screen reader reads out whatever is written, and waiting is told many times a second."""
    with serving() as server:
        page = window(f"{server.url}lobby")
        page.clock.install(time=0)
        expect_open(page)
        page.evaluate(
            """() => {
                window.written = [];
                Math.random = () => 1;
                tries = 5;
                new MutationObserver(() => written.push($("state").textContent)).observe(
                    $("state"), {childList: true, characterData: true, subtree: true}
                );
            }"""
        )
        server.kill()
    expect(state(page)).to_have_text("CLOSED")
    expect(page.get_by_text(re.compile(r"Next try in 1\d s"))).to_be_visible()
    page.clock.run_for(10_000)
    expect(page.get_by_text(re.compile(r"Next try in \d s"))).to_be_visible()
    assert page.evaluate("written") == ["CLOSED"]


@pytest.mark.network
def test_dashboard_page_reads_out_its_state_and_not_each_second_of_figures(window: Window) -> None:
    with running("dashboard.py") as dashboard:
        page = window(f"{dashboard.url}?uid=ada")
        page.get_by_text("Watching: ada").wait_for()
        live = page.locator("output, [aria-live], [role=status], [role=log], [role=alert]")
        assert live.all_inner_texts() == ["live"]
        page.close()


# Without a mouse.


def test_chat_page_lets_the_keyboard_scroll_back(shared: Server, window: Window) -> None:
    page = window(f"{shared.url}keyboard")
    expect_open(page)
    with connect(shared.ws("/keyboard"), open_timeout=PATIENCE, max_queue=None) as other:
        for number in range(100):
            other.send(f"line {number}")
    expect(log(page)).to_have_count(100)
    page.get_by_label("Your name").focus()
    page.keyboard.press("Shift+Tab")
    history = page.get_by_role("region", name="Conversation")
    expect(history).to_be_focused()
    expect(history).to_have_attribute("tabindex", "0")  # of which not every browser has need
    page.keyboard.press("Home")
    expect(log(page).first).to_be_in_viewport()
    expect(log(page).last).not_to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="New messages")).to_be_focused()
    page.keyboard.press("Enter")
    expect(log(page).last).to_be_in_viewport()
