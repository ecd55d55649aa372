"""Messages for the tests: by the table, and by hand."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from trioweb._centrifuge import CODECS
from trioweb._centrifuge._codec import Codec
from trioweb._centrifuge._commands import Command
from trioweb._centrifuge._replies import Reply
from trioweb._centrifuge._table import Field, Kind, Message, fields_of

JSON: Final[Codec] = CODECS["centrifuge-json"]
PROTOBUF: Final[Codec] = CODECS["centrifuge-protobuf"]

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
payloads: Final = _values.map(lambda value: Raw(json.dumps(value)))


@cache
def messages(kind: type[Message], depth: int = 0) -> st.SearchStrategy[Any]:
    """Any message of *kind*, each of its fields there or left out."""
    fields = {field.name: _content(field, depth) for field in fields_of(kind)}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


def _content(field: Field, depth: int) -> st.SearchStrategy[Any]:
    match field.kind:
        case Kind.INTEGER:
            return st.integers(field.least, field.most)
        case Kind.BOOL:
            return st.booleans()
        case Kind.TEXT:
            return st.text(max_size=8)
        case Kind.RAW:
            return st.just(UNSET) | payloads
        case Kind.MESSAGE:
            return st.none() | messages(field.of, depth + 1)
    if depth > 4:  # filters
        return st.just([] if field.kind is Kind.LIST else {})
    entry = st.text(max_size=8) if field.of is str else messages(field.of, depth + 1)
    if field.kind is Kind.LIST:
        return st.lists(entry, max_size=3)
    return st.dictionaries(st.text(max_size=8), entry, max_size=3)


def commands(codec: Codec, data: str | bytes) -> list[Command]:
    return list(codec.decode_commands(data))


def replies(codec: Codec, data: str | bytes) -> list[Reply]:
    return list(codec.decode_replies(data))


MODERATE: Final = settings(
    deadline=None,
    max_examples=75,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Every command that a server takes: those without an id or a topic are told elsewhere.
commands_of_clients: Final = st.one_of(
    [
        messages(field.of).map(lambda request: Command.of(7, request))
        for field in fields_of(Command)
        if field.name != "id"
    ]
).filter(lambda command: getattr(command.request, "topic", "x") != "")
replies_of_servers: Final = messages(Reply)
