"""SECURITY.md says what the code does: its limits, and the configuration that it shows."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

import trioweb
from tests.processes import ROOT

_TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
_ROWS = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(\w+)` \|", _TEXT, re.MULTILINE))
# Bounds on what peers may cost; the rest of a Heartbeat says what is sent.
_POLICIES = (trioweb.Limits, trioweb.Heartbeat, trioweb.Retain)
_NO_LIMITS = {
    "Heartbeat.message",
    "Heartbeat.reply",
    "open_hub.broker",
    "open_hub.observer",
    "open_hub.store",
}


def _defaults() -> dict[str, Any]:
    found = {
        f"{policy.__name__}.{field.name}": field.default
        for policy in _POLICIES
        for field in fields(policy)
    }
    for name, parameter in inspect.signature(trioweb.open_hub).parameters.items():
        found[f"open_hub.{name}"] = parameter.default
    return {name: value for name, value in found.items() if name not in _NO_LIMITS}


@pytest.mark.parametrize("name", sorted({*_defaults(), *_ROWS}))
def test_security_md_tells_the_default_of_every_limit(name: str) -> None:
    assert ast.literal_eval(_ROWS[name]) == _defaults()[name]


def test_security_md_shows_python_that_could_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
    assert len(blocks) == 2
    serve = set(inspect.signature(trioweb.serve).parameters)
    for block in blocks:
        tree = compile(
            block, "SECURITY.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        [call] = [node for node in calls if ast.unparse(node.func) == "trioweb.serve"]
        assert {keyword.arg for keyword in call.keywords} <= serve
