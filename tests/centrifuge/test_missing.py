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


def test_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['msgspec'] = None; import trioweb._centrifuge"
    assert "ImportError: the Centrifuge client protocol needs msgspec: pip install" in _run(program)
