"""Take the README's pictures of the pages that the running programs serve.

    python docs/pictures/take.py [chat] [chat_server] [dashboard] [admin]

Needs Playwright and an installed Chromium.  The dashboard's takes two minutes: as long as its
chart is, and so does the admin page's.  Each is taken twice, for readers in light and in dark.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import trio
from playwright.sync_api import Browser, Page, sync_playwright

import trioweb

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

# Topics of the admin page's picture, and the seconds between two messages.
SPOKEN = {"prices:eur": 0.02, "prices:usd": 0.05, "lobby": 2, "news": 9}


@contextmanager
def running(*command: str) -> Iterator[str]:
    """Run a program of ours; yield the URL that it prints."""
    arguments = [sys.executable, *command, "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        try:
            yield browser
        finally:
            browser.close()


def shoot(page: Page, name: str) -> None:
    """Save what the page shows, once for each colour scheme."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=HERE / f"{name}-{scheme}.png", animations="disabled")


def open_page(stack: ExitStack, browser: Browser, url: str, width: int, height: int) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=1.5, locale="en-GB"
    )
    stack.callback(context.close)
    page = context.new_page()
    page.goto(url)
    return page


def say(page: Page, text: str, everybody: list[Page]) -> None:
    """Type a line, and wait until all who are meant to have it show it."""
    page.fill("#text", text)
    page.press("#text", "Enter")
    for reader in everybody:
        reader.get_by_text(text.split(maxsplit=2)[-1], exact=False).last.wait_for()


def chat() -> None:
    with running("-m", "trioweb", "serve") as url, chromium() as browser, ExitStack() as stack:
        ada, bob, eve = (open_page(stack, browser, f"{url}lobby", 680, 490) for _ in range(3))
        everybody = [ada, bob, eve]
        for page, name in zip(everybody, ("Ada", "Bob", "Eve"), strict=True):
            page.get_by_text("OPEN", exact=True).wait_for()
            page.fill("#name", name)
        say(ada, "Is anybody here yet?", everybody)
        say(bob, "Just came in. Same page, another window.", everybody)
        say(
            eve,
            "I came late, but the last lines were here.",
            everybody,
        )
        say(ada, "What if my train goes through a tunnel?", everybody)
        say(bob, "Then we wait for nobody: you lag, we chat on.", everybody)
        ada.fill("#text", "And what I type meanwhile waits")
        shoot(ada, "chat")


def chat_server() -> None:
    script = str(EXAMPLES / "chat_server.py")
    with running(script) as url, chromium() as browser, ExitStack() as stack:
        ada, bob, eve = (
            open_page(stack, browser, f"{url}?name={name}", 680, 570)
            for name in ("Ada", "Bob", "Eve")
        )
        eve.get_by_text("Eve joined").wait_for()
        everybody = [ada, bob, eve]
        say(bob, "Hello! Who is who here?", everybody)
        say(ada, "Type /who and you will know.", everybody)
        say(bob, "/msg Ada Shall we surprise Eve?", [ada, bob])
        say(ada, "/msg Bob At noon. Not a word.", [ada, bob])
        say(eve, "It is very quiet here all of a sudden.", everybody)
        ada.fill("#text", "/who")
        ada.press("#text", "Enter")
        ada.get_by_text("here: Ada, Bob, Eve").wait_for()
        shoot(ada, "chat_server")


async def dashboard() -> None:
    """With viewers who come and go, so that there is something to see."""
    dice = random.Random(3)

    async def watch(url: str, after: float, seconds: float) -> None:
        await trio.sleep(after)
        with trio.move_on_after(seconds):
            async with trioweb.open_connection(url) as connection:
                await connection.wait_closed()

    def take(url: str) -> None:
        with chromium() as browser, ExitStack() as stack:
            page = open_page(stack, browser, f"{url}?uid=ada", 900, 390)
            page.wait_for_timeout(121_000)
            shoot(page, "dashboard")

    with running(str(EXAMPLES / "dashboard.py")) as url:
        async with trio.open_nursery() as nursery:
            socket_url = url.replace("http", "ws") + "ws?uid="
            for name in ("grace", "edsger"):
                nursery.start_soon(watch, socket_url + name, 2, 300)
            for number in range(70):
                uid = f"guest-{number % 3}"
                after, seconds = dice.uniform(0, 110), dice.expovariate(1 / 40)
                nursery.start_soon(watch, socket_url + uid, after, seconds)
            await trio.to_thread.run_sync(take, url)
            nursery.cancel_scope.cancel()


async def admin() -> None:
    """With topics that differ in how much is said, and a subscriber that does not read."""
    dice = random.Random(5)

    async def talk(url: str, seconds: float) -> None:
        async with trioweb.open_connection(url) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(connection.wait_closed)
            while True:
                await connection.send(f"{dice.uniform(90, 110):.2f}")
                await trio.sleep(dice.expovariate(1 / seconds))

    async def listen(url: str, after: float) -> None:
        await trio.sleep(after)
        with trio.move_on_after(dice.uniform(20, 200)):
            async with trioweb.open_connection(url) as connection:
                await connection.wait_closed()

    def take(url: str) -> None:
        with chromium() as browser, ExitStack() as stack:
            page = open_page(stack, browser, f"{url}admin", 1040, 900)
            page.fill("#key", os.environ["TRIOWEB_ADMIN_KEY"])
            page.press("#key", "Enter")
            page.wait_for_timeout(121_000)
            shoot(page, "admin")

    os.environ["TRIOWEB_ADMIN_KEY"] = random.Random(6).randbytes(16).hex()
    with running("-m", "trioweb", "serve") as url:
        socket_url = url.replace("http", "ws")
        async with trio.open_nursery() as nursery:
            for topic, seconds in (
                ("prices:eur", 0.02),
                ("prices:usd", 0.05),
                ("lobby", 2),
                ("news", 9),
            ):
                nursery.start_soon(talk, socket_url + topic, seconds)
                for _ in range(8):
                    nursery.start_soon(listen, socket_url + topic, dice.uniform(0, 90))
            await trio.to_thread.run_sync(take, url)
            nursery.cancel_scope.cancel()


PICTURES: dict[str, Callable[[], object]] = {
    "chat": chat,
    "chat_server": chat_server,
    "dashboard": partial(trio.run, dashboard),
    "admin": partial(trio.run, admin),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
