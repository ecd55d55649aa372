"""The file of `--topics`: what may be done with which topics, as TOML.

    [chat]                      # chat:lobby, and all else that begins with "chat:"
    publish = true
    retain = { max_messages = 100, max_age = 3600 }

A table for each namespace, `[""]` for names without a colon, `["*"]` for all others.  Its keys are
the fields of `TopicRules`, and of `retain` those of `Retain`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from .._policy import Retain
from .._topic_server._rules import TopicRules
from ._files import read_toml
from ._terminal import UsageError

T = TypeVar("T", TopicRules, Retain)

# TOML has nothing for None.
_NONE: Final = "none"


def read_topics(path: str, retain: Retain) -> dict[str, TopicRules]:
    """The rules in the file at *path*, by namespace.

    Args:
        retain: what is kept where the file does not say it.

    Raises:
        UsageError: there is something wrong with it, and where.
    """
    where = f"--topics {path}"
    tables = read_toml("--topics", path)
    if not tables:
        raise UsageError(f"{where}: nothing in it, so that there would be no topic")
    rules = {}
    for name, table in tables.items():
        place = f"{where}: [{shown(name)}]"
        if not isinstance(table, dict):
            raise UsageError(
                f"{where}: {name}: not in a table; a namespace is [{shown(name)}], and names "
                'without one are [""]'
            )
        if ":" in name:
            raise UsageError(f"{place}: a namespace is what stands before the first colon of names")
        rules[name] = _rules(place, table, TopicRules(retain=retain))
    return rules


def _rules(place: str, table: dict[str, Any], rules: TopicRules) -> TopicRules:
    values = dict(table)
    if values.get("recover") == _NONE:
        values["recover"] = None
    kept = values.get("retain")
    if kept is not None:
        if not isinstance(kept, dict):
            raise UsageError(f"{place} retain = {kept!r}: must be a table of {_names(Retain)}")
        values["retain"] = _replaced(f"{place} retain:", kept, rules.retain)
    return _replaced(place, values, rules)


def _replaced(place: str, values: dict[str, Any], default: T) -> T:
    """*default* with *values* instead, each of which is checked alone to be told by its key."""
    known = {field.name for field in fields(default)}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{place} {key}: there is no such key; there are {_names(default)}")
        try:
            default = replace(default, **{key: value})
        except (TypeError, ValueError) as exc:
            raise UsageError(f"{place} {key}: {exc}") from None
    return default


def _names(kind: Any) -> str:
    return ", ".join(field.name for field in fields(kind))


def shown(name: str) -> str:
    """*name* as TOML has it."""
    is_bare = bool(name) and all(
        char.isascii() and (char.isalnum() or char in "-_") for char in name
    )
    return name if is_bare else f'"{name}"'
