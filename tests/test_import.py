"""What `import trioweb` brings along, as a program that starts often pays for it each time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# Counts work instead of time: calls, and what a data class and a regular expression take hundreds
# of, so that one more is seen.
_SCRIPT = """
import dataclasses, re, sys, trio
written = []
write = dataclasses.dataclass
def counted(plain=None, **options):
    if plain is None:
        return lambda plain: counted(plain, **options)
    written.append(plain.__name__)
    return write(plain, **options)
dataclasses.dataclass = counted
compiled = []
compile = re.compile
re.compile = lambda pattern, flags=0: compiled.append(str(pattern)) or compile(pattern, flags)
calls = 0
def count(frame, event, what):
    global calls
    calls += event in ("call", "c_call")
before = set(sys.modules)
sys.setprofile(count)
import trioweb
sys.setprofile(None)
re.compile = compile
modules = sorted(set(sys.modules) - before)
import json
print(json.dumps({
    "modules": modules,
    "calls": calls,
    "written": written,
    "compiled": compiled,
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
    late |= {"email", "datetime", "http", "importlib.util", "json", "msgspec", "pytest"}
    late |= {"trioweb.testing", "trioweb._topics._commands"}
    assert not late & {*modules, *(name.partition(".")[0] for name in others)}
    assert len(others) <= 5, others
    assert len(modules) - len(others) <= 150


def test_import_does_little_work() -> None:
    """42,000 calls were counted; with `email`, of which a server needs a date, twice as many."""
    assert _imported()["calls"] < 55_000


def test_import_writes_only_data_classes_of_which_it_makes_objects() -> None:
    """Those of defaults and constants: an ordinary data class would be written, too."""
    policies = {"Limits", "Heartbeat", "Retry", "Retain", "Outbox"}
    assert set(_imported()["written"]) <= {*policies, "Details"}


def test_import_compiles_only_regular_expressions_that_each_handshake_needs() -> None:
    """The others are given to functions of `re`, which keeps what it has compiled.

    They are 8, and one more of Python 3.13's own."""
    compiled = _imported()["compiled"]
    assert len(compiled) <= 10, compiled
