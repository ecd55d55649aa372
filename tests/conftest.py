"""What pytest must know of the machine: which tests cannot run here, and how to take that."""

from __future__ import annotations

import gc
import logging
import shutil
import signal
from collections.abc import Generator
from importlib.util import find_spec

import pytest

from tests.interop.fronts import missing_for_fronts
from tests.interop.javascript import (
    missing_for_axe,
    missing_for_browser,
    missing_for_centrifuge,
    missing_for_node,
)
from tests.interop.prometheus import missing_for_promtool
from tests.interop.proxies import missing_for_proxies

# A shell that starts a command in the background has it ignore Ctrl-C, and so would every
# program that the tests start, and end with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The browser tests import Playwright, which only their own sessions install.
collect_ignore = [] if find_spec("playwright") else ["browser"]


def missing_for_systemd() -> str | None:
    """What the tests marked `systemd` lack here, if anything."""
    programs = ("systemd-analyze", "systemd-socket-activate")
    missing = [name for name in programs if shutil.which(name) is None]
    return f"there is no {missing[0]} on the path" if missing else None


def missing_for_redis() -> str | None:
    """What the tests marked `redis` lack here, if anything."""
    return None if shutil.which("redis-server") else "there is no redis-server on the path"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-peers",
        action="store_true",
        help="fail, rather than skip, the tests that want Node, Chromium or others where it is "
        "missing",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in (
        ("node", missing_for_node),
        ("browser", missing_for_browser),
        ("axe", missing_for_axe),
        ("centrifuge", missing_for_centrifuge),
        ("proxy", missing_for_proxies),
        ("front", missing_for_fronts),
        ("systemd", missing_for_systemd),
        ("curl", lambda: None if shutil.which("curl") else "there is no curl on the path"),
        ("redis", missing_for_redis),
        ("promtool", missing_for_promtool),
    ):
        if item.get_closest_marker(marker) and (what := missing()):
            if item.config.getoption("all_peers"):
                pytest.fail(what, pytrace=False)
            pytest.skip(what)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector pass over what stays to the end: modules, and thousands of tests.

    It went through all of that again and again, which took a quarter of the time of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def levels_stay() -> Generator[None]:
    """A test that leaves another level behind makes others fail, later and elsewhere."""
    loggers = [logging.getLogger(name) for name in (None, "trioweb")]
    levels = [logger.level for logger in loggers]
    yield
    assert [logger.level for logger in loggers] == levels


@pytest.fixture
def root_logger() -> Generator[None]:
    """`main` takes the root logger over, as a program may; pytest wants it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
