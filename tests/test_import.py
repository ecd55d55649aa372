"""What `import trioweb` brings along, as a program that starts often pays for it each time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# Counts work instead of time: calls, and what a data class and a regular expression take hundreds
# of, so that one more is seen.
_SCRIPT = """
import dataclasses, json, sys, trio
written = []
write = dataclasses.dataclass
def counted(plain=None, **options):
    if plain is None:
        return lambda plain: counted(plain, **options)
    written.append(plain.__name__)
    return write(plain, **options)
dataclasses.dataclass = counted
calls = 0
def count(frame, event, what):
    global calls
    calls += event in ("call", "c_call")
before = set(sys.modules)
sys.setprofile(count)
import trioweb
sys.setprofile(None)
print(json.dumps({
    "modules": sorted(set(sys.modules) - before),
    "calls": calls,
    "written": written,
}))
"""


def _imported() -> Any:
    answer = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, check=True)
    return json.loads(answer.stdout)


def test_import_brings_few_modules_beside_those_of_trio() -> None:
    """What only a client needs comes with its first connection, what only some programs need
    when they use it; and each module takes half a millisecond."""
    modules = _imported()["modules"]
    others = [name for name in modules if name.partition(".")[0] != "trioweb"]
    late = {"trio_websocket", "wsproto", "h11", "importlib.metadata", "rich", "python_socks"}
    late |= {"email", "datetime", "msgspec", "pytest"}
    late |= {"trioweb.testing", "trioweb._topics._commands"}
    assert not late & {*modules, *(name.partition(".")[0] for name in others)}
    assert len(others) <= 15, others
    assert len(modules) - len(others) <= 150


def test_import_does_little_work() -> None:
    """48,000 calls were counted; with `email`, of which a server needs a date, twice as many."""
    assert _imported()["calls"] < 65_000


def test_import_writes_only_data_classes_of_which_it_makes_objects() -> None:
    """Those of defaults and constants: an ordinary data class would be written, too."""
    policies = {"Limits", "Heartbeat", "Retry", "Retain", "Outbox"}
    assert set(_imported()["written"]) <= {*policies, "Accept", "Details", "WireForm"}
