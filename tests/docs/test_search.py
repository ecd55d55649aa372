"""The site's own search finds what people look for: in the site that was built, by its scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.support import DOCS

pytestmark = pytest.mark.slow

# Where the site was built already; `nox -s docs` says so, and then nothing may be missing.
SITE = os.environ.get("SITE")
BUILDERS = ("sphinx", "furo", "myst_parser")
# So far down does somebody look.
SHOWN = 5


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SITE is not None:
        return Path(SITE)
    if shutil.which("node") is None:
        pytest.skip("there is no node on the path")
    if missing := [name for name in BUILDERS if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(DOCS), str(built)]
    subprocess.run(command, check=True, timeout=300)
    return built


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("confirm", "delivery"),
        ("what confirm promises", "delivery#what-confirm-promises"),
        ("drain", "server"),
        ("how to drain", "server#how-to-drain-a-server"),
        ("1013", "close-codes"),
        ("close code 1013", "close-codes"),
        ("what close code 1013 means", "close-codes#what-close-code-1013-means"),
        ("test an outage", "testing"),
        ("how to test an outage", "testing#how-to-test-an-outage"),
        ("two nodes", "processes"),
        ("how to run two nodes", "processes#how-to-run-two-nodes"),
        ("metric slow consumer", "operating"),
        ("which metric shows a slow consumer", "operating#which-metric-shows-a-slow-consumer"),
        ("environment variables", "configuration"),
        ("kubernetes", "kubernetes"),
        ("moving from websockets", "moving"),
    ],
)
def test_search_finds_the_page(query: str, page: str, site: Path) -> None:
    command = ["node", str(Path(__file__).with_name("search.js")), str(site), query]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    shown = found[:SHOWN]
    assert page in shown or page in [each.partition("#")[0] for each in shown], found
