"""The examples' pages in a real Chromium, which a thread drives."""

from __future__ import annotations

import re
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.examples.support import EXAMPLES, PATIENCE, line_to, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.network, pytest.mark.slow]


@contextmanager
def chromium() -> Iterator[Browser]:
    # Here, as what has no Playwright must still be able to collect this.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        try:
            yield browser
        finally:
            browser.close()


async def drive(steps: Callable[[Browser], None]) -> None:
    def run() -> None:
        with chromium() as browser:
            steps(browser)

    await trio.to_thread.run_sync(run)


def open_page(browser: Browser, url: str) -> Page:
    """A page of its own, which fails the test by whatever it complains of."""
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE * 1000)

    def fail(error: object) -> None:
        raise AssertionError(f"{url}: {error}")

    page.on("pageerror", fail)
    page.goto(url)
    return page


def join(browser: Browser, url: str, name: str) -> Page:
    page = open_page(browser, url)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    page.get_by_text(f"* {name} joined").wait_for()
    return page


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


async def test_chat_page_joins_talks_and_whispers() -> None:
    def steps(browser: Browser) -> None:
        ada, bob, eve = (join(browser, chat.url, name) for name in ("Ada", "Bob", "Eve"))
        say(ada, "Hello <b>everybody</b>")
        for page in ada, bob, eve:
            page.get_by_text("Hello <b>everybody</b>").wait_for()
        assert ada.locator("li.mine").count() == 1
        say(bob, "/msg Ada a secret")
        for page in ada, bob:
            page.locator("li.private", has_text="Bob → Ada").get_by_text("a secret").wait_for()
        say(bob, "the end")
        eve.get_by_text("the end").wait_for()
        assert eve.get_by_text("a secret").count() == 0
        ada.close()
        bob.get_by_text("* Ada left").wait_for()

    with running("chat_server.py") as chat:
        await drive(steps)


async def test_chat_page_comes_back_with_its_name_when_the_server_does() -> None:
    def steps(browser: Browser) -> None:
        with running("chat_server.py") as chat:
            port = int(chat.url.rstrip("/").rpartition(":")[2])
            ada = join(browser, chat.url, "Ada")
        ada.get_by_text("trying again").or_(ada.get_by_text("connecting")).wait_for()
        # What is typed meanwhile is still there afterwards.
        ada.get_by_label("Message", exact=True).fill("typed while it was down")
        ada.keyboard.press("Enter")
        with running("chat_server.py", port):
            ada.get_by_text("connected again").wait_for()
            ada.get_by_text("connected", exact=True).wait_for()
            ada.keyboard.press("Enter")
            ada.locator("li.mine", has_text="typed while it was down").wait_for()
            ada.close()

    await drive(steps)


async def test_chat_page_stays_where_somebody_reads() -> None:
    def steps(browser: Browser) -> None:
        ada, bob = (join(browser, chat.url, name) for name in ("Ada", "Bob"))
        for number in range(60):
            say(ada, f"line {number}")
        last = ada.get_by_text("line 59")
        last.wait_for()
        assert ada.locator("#log").evaluate("log => log.scrollTop") > 1000
        ada.locator("#log").evaluate("log => { log.scrollTop = 500; }")
        say(bob, "while Ada reads")
        ada.get_by_text("while Ada reads").wait_for()
        assert ada.locator("#log").evaluate("log => log.scrollTop") == 500
        # The oldest lines leave the page, and what is read stays where it is.
        read = ada.get_by_text("line 55")
        read.scroll_into_view_if_needed()
        ada.locator("#log").evaluate("log => { log.scrollTop -= 300; }")
        before = read.bounding_box()
        ada.evaluate("for (let number = 0; number < 260; number++) show(`Eve: more ${number}`)")
        assert ada.locator("#log li").count() == 300
        # But for the rounding of heights, with each line.
        assert read.bounding_box() == pytest.approx(before, abs=10)

    with running("chat_server.py") as chat:
        await drive(steps)


async def test_dashboard_page_draws_and_comes_back_with_its_server() -> None:
    def steps(browser: Browser) -> None:
        with running("dashboard.py") as dashboard:
            port = int(dashboard.url.rstrip("/").rpartition(":")[2])
            page = open_page(browser, f"{dashboard.url}?uid=ada")
            live = page.locator("#state", has_text=re.compile("^live$"))
            live.wait_for()
            page.get_by_text("Watching: ada").wait_for()
            curves = page.locator(".curve")
            assert curves.count() == 3
            for index in range(3):
                assert re.match(r"M\d+ [\d.]+L\d+ [\d.]+", curve_of(page, index))
            first = curve_of(page, 0)
            # One more point with each second.
            page.wait_for_function(
                "first => document.querySelector('.curve').getAttribute('d') !== first", arg=first
            )
        page.locator("#state", has_text="connecting").wait_for()
        with running("dashboard.py", port):
            live.wait_for()
            page.close()

    def curve_of(page: Page, index: int) -> str:
        return page.locator(".curve").nth(index).get_attribute("d") or ""

    await drive(steps)


def note_urls(page: Page, urls: list[str]) -> None:
    """Have *urls* told of all that *page* asks for from now on."""
    page.on("request", lambda request: urls.append(request.url))
    page.on("websocket", lambda socket: urls.append(socket.url))


async def test_model_page_goes_on_where_it_was_when_reloaded() -> None:
    def steps(browser: Browser) -> None:
        pages = {over: open_page(browser, runs.url) for over in ("events", "WebSocket")}
        asked: dict[str, list[str]] = {over: [] for over in pages}
        for over, page in pages.items():
            note_urls(page, asked[over])
            page.get_by_label(over).check()
            page.get_by_label("Question").fill("Where was I?")
            page.get_by_role("button", name="Ask").click()
        for page in pages.values():
            page.get_by_text("Where was I?").wait_for()
            page.reload()
        for over, page in pages.items():
            page.get_by_text("done", exact=True).wait_for()
            answers.append(page.locator("#answer").text_content() or "")
            resumed = [url for url in asked[over] if re.search(r"(since|_id)=[0-9a-f]+%3A\d", url)]
            assert len(resumed) == 1, asked[over]
            # What is over is there without asking again.
            page.reload()
            assert page.locator("#answer").text_content() == answers[-1]
        # Whoever has the address has the answer.
        other = open_page(browser, page.url)
        other.get_by_text("done", exact=True).wait_for()
        answers.append(other.locator("#answer").text_content() or "")

    answers: list[str] = []
    with running("model_stream.py") as runs:
        await drive(steps)
    assert answers[0].startswith("You ask: “Where was I?” A nursery")
    assert answers[0].endswith("and none twice.")
    assert len(answers) == 3 and len(set(answers)) == 1


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the scores as a fresh clone has it, once npm has bundled its page."""
    where = tmp_path_factory.mktemp("scores")
    shutil.copy(EXAMPLES / "scores.py", where)
    (where / "scores").mkdir()
    for name in ("index.html", "page.js", "package.json"):
        shutil.copy(EXAMPLES / "scores" / name, where / "scores")
    script = where / "scores.py"
    runpy.run_path(str(script))["bundle"]()
    return script


def match(page: Page) -> Locator:
    return page.get_by_label("match:1")


def wait_for_number(page: Page, what: str, least: int) -> None:
    """Wait until the first match's *what* is *least* or more."""
    page.wait_for_function(
        "([what, least]) => document.querySelector('section')?.dataset[what] >= least",
        arg=[what, least],
    )


def number(page: Page, what: str) -> int:
    return int(match(page).get_attribute(f"data-{what}") or -1)


@pytest.mark.centrifuge
async def test_scores_page_recovers_what_it_missed_while_the_line_was_cut(scores: Path) -> None:
    def cut_line() -> None:
        trio.from_thread.run_sync(line.cut)

    def steps(browser: Browser) -> None:
        page = open_page(browser, f"http://127.0.0.1:{line.port}/?name=Ada")
        other = open_page(browser, f"{program.url}?name=Bob")
        for seen in page, other:
            match(seen).get_by_text("Watching: Ada, Bob").wait_for()
        # Calls, of which everybody is told.
        other.get_by_role("button", name="Ada Athletic! 0").click()
        other.get_by_text("Ada Athletic was cheered for 1 times").wait_for()
        match(page).get_by_text("Bob cheers for Ada Athletic.").wait_for()
        page.get_by_role("button", name="Ada Athletic! 1").wait_for()
        for cut in cut_line, page.get_by_text("Cut the").click:
            before = number(page, "offset")
            cut()
            match(page).get_by_text(re.compile(r"^(\d+) missed, \1 recovered$")).wait_for()
            wait_for_number(page, "offset", before + 10)
        assert number(page, "holes") == 0
        match(page).get_by_text("Watching: Ada, Bob").wait_for()
        other.close()
        match(page).get_by_text(re.compile("Watching: Ada$")).wait_for()
        page.close()

    with running(str(scores), 0, "--pace", "0.05") as program:
        async with line_to(program.url) as line:
            await drive(steps)


@pytest.mark.centrifuge
async def test_scores_page_is_told_that_a_server_which_was_killed_has_begun_anew(
    scores: Path,
) -> None:
    def steps(browser: Browser) -> None:
        with running(str(scores), 0, "--pace", "0.05") as program:
            port = int(program.url.rstrip("/").rpartition(":")[2])
            page = open_page(browser, f"{program.url}?name=Ada")
            wait_for_number(page, "offset", 10)
            program.process.send_signal(signal.SIGKILL)
            program.process.wait(PATIENCE)
            program.is_killed = True
        with running(str(scores), port, "--pace", "0.5"):
            match(page).get_by_text("The server has begun anew").wait_for()
            match(page).get_by_text("Watching: Ada").wait_for()
            match(page).locator(".minute", has_text=re.compile(r"\d")).wait_for()
            assert number(page, "holes") == 0
            page.close()

    await drive(steps)
