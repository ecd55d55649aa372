"""Without msgspec everything else works, and what needs it says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.network  # starts processes


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_trioweb_does_not_need_msgspec() -> None:
    program = "import sys, trioweb, trioweb.testing; print('msgspec' in sys.modules)"
    assert _run(program) == "False\n"


@pytest.mark.parametrize("name", ["._centrifuge import CODECS", " import open_topic_server"])
def test_the_error_says_what_to_install(name: str) -> None:
    program = f"import sys; sys.modules['msgspec'] = None; from trioweb{name}"
    assert "ImportError: the Centrifuge client protocol needs msgspec: pip install" in _run(program)


def test_rules_and_tokens_do_not_need_it() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None\n"
        "from trioweb import TopicRules, Tokens\n"
        "print(Tokens('x' * 32), TopicRules().publish)"
    )
    assert _run(program) == "<Tokens of 1 keys> False\n"
