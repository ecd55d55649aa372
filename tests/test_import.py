"""What `import trioweb` brings along, as a program that starts often pays for it each time."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys, trio
before = set(sys.modules)
import trioweb
print(*sorted(set(sys.modules) - before))
"""


def test_import_brings_few_modules_beside_those_of_trio() -> None:
    """What only a client needs comes with its first connection, what only some programs need
    when they use it; and each module takes half a millisecond."""
    answer = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, check=True)
    imported = answer.stdout.decode().split()
    others = [name for name in imported if name.partition(".")[0] != "trioweb"]
    late = {"trio_websocket", "wsproto", "importlib.metadata", "rich", "python_socks", "pytest"}
    assert "h11" in others
    assert not late & {*others, *(name.partition(".")[0] for name in others)}
    assert len(others) <= 35, others
