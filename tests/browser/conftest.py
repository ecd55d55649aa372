"""A real Chromium, and windows in it whose errors fail the test.

The browser is the one that is installed: Playwright only drives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.support import Window
from tests.interop.javascript import CHROMIUM_ARGUMENTS, chromium_path
from tests.interop.serving import PATIENCE


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS
        )
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Browser) -> Iterator[Window]:
    """A function that opens one more window, as another user's: with storage of its own."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_window(url: str | None = None, **options: Any) -> Page:
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if "Content Security Policy" in message.text else None
            ),
        )
        if url is not None:
            page.goto(url)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert errors == []
