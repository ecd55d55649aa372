"""The chat page as a person sees it: what is shown, and what can be typed and pressed."""

from __future__ import annotations

from typing import Any, Final, Protocol

from playwright.sync_api import Locator, Page, expect


class Window(Protocol):
    """Opens a browser window; the page of that name is a fixture.

    Options are those of Playwright's `new_context`.
    """

    def __call__(self, url: str | None = None, **options: Any) -> Page: ...


# Before the page's own script looks.
_WITHOUT_PROTOCOL: Final = """
    new MutationObserver(() => {
        if (document.documentElement) document.documentElement.dataset.protocol = "no";
    }).observe(document, {childList: true, subtree: true});
"""


def without_protocol(page: Page) -> None:
    """Have the page be as where the server has no msgspec: it speaks as a terminal does."""
    page.add_init_script(_WITHOUT_PROTOCOL)


def people(page: Page) -> Locator:
    return page.locator("#people summary")


def names(page: Page) -> Locator:
    """Who is here; opens the list."""
    if page.locator("#people").get_attribute("open") is None:
        people(page).click()
    return page.get_by_label("Who is here").get_by_role("listitem")


def state(page: Page) -> Locator:
    return page.get_by_label("Connection")


def log(page: Page) -> Locator:
    """The messages that were received; not the notes about the connection."""
    return page.get_by_role("log").locator("li:not(.note)")


def notes(page: Page) -> Locator:
    return page.get_by_role("log").locator("li.note")


def waiting(page: Page) -> Locator:
    return page.get_by_label("Not delivered yet").get_by_role("listitem")


def say(page: Page, text: str, name: str | None = None) -> None:
    if name is not None:
        page.get_by_label("Your name").fill(name)
    message = page.get_by_label("Message", exact=True)
    message.fill(text)
    message.press("Enter")


def expect_open(page: Page) -> None:
    expect(state(page)).to_have_text("OPEN")
    expect(state(page)).to_have_attribute("data-ready-state", "1")


def expect_texts(items: Locator, texts: list[str]) -> None:
    """The items are these: the name that signs one, if any, then the text, in order."""
    expect(items).to_have_count(len(texts))
    for item, text in zip(items.all(), texts, strict=True):
        parts = item.locator("b, span").all_inner_texts()
        assert ": ".join(parts) == text
