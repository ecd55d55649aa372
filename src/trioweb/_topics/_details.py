"""What a publication says beside its message: its kind, its key, its tags, its publisher.

Hardly any publication has such details, so they stand apart, and those without share NOTHING.
Pure: knows of no log.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .._arguments import check_kind
from .._dataclass import dataclass
from .._policy import Message, check_message

if TYPE_CHECKING:
    from json import JSONDecoder

Kind: TypeAlias = Literal["text", "json", "bytes"]
_KINDS: Final = ("text", "json", "bytes")

# Of a key: a long one takes memory for as long as its publication does, and buys nothing.
_MAX_KEY: Final = 255
_JSON_SPACE: Final = " \t\n\r"
# What a publication with details takes more than one without: a place in the entry, the details,
# their mapping's view; and for a key its place in a table, as measured in CPython 3.11.
_DETAILS_BYTES: Final = 8 + 72 + 64
_KEY_BYTES: Final = 56 + 32 + 104


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who has published something, for `Topic.publish(publisher=…)`.

    It is text and bytes, and no object of the program's own, since a topic may be read by another
    process, and its memory is counted.

    Args:
        id: two publishers with the same id are the same, and what one publishes with a key is
            nobody else's: so nobody can suppress what another publishes.  It should outlive a
            connection, as a user's name does.
        info: what subscribers may be told of them, for those who encode publications to read.
    """

    id: str
    info: bytes = b""

    def __post_init__(self) -> None:
        check_kind("Publisher", "id", self.id, str)
        check_message("Publisher(id=…)", self.id)
        check_kind("Publisher", "info", self.info, bytes)


NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Details:
    """What `Topic.publish` was given beside the message.

    Args:
        is_json: the message is JSON, and no string.
        is_string: the message is the text of what was published as a JSON string.
        size: bytes of memory that this takes, with what it makes the log remember.
    """

    is_json: bool = False
    is_string: bool = False
    key: str | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    publisher: Publisher | None = None
    size: int = 0

    @property
    def once(self) -> tuple[str | None, str] | None:
        """Whose key this is, and the key; None without one."""
        if self.key is None:
            return None
        return (None if self.publisher is None else self.publisher.id), self.key


NOTHING: Final = Details()
_ONLY_JSON: Final = Details(is_json=True, size=_DETAILS_BYTES)
_ONLY_STRING: Final = Details(is_string=True, size=_DETAILS_BYTES)


def describe(
    message: Message | bytearray | memoryview,
    key: str | None,
    tags: Mapping[str, str] | None,
    publisher: Publisher | None,
    kind: Kind | None,
) -> tuple[Message | bytearray | memoryview, Details]:
    """The message that is published, and its details; see `Topic.publish`.

    Raises:
        TypeError, ValueError: one of them cannot be.
    """
    is_text = isinstance(message, str)
    is_string = False
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"publish(kind={kind!r}): must be one of {', '.join(map(repr, _KINDS))}")
    if kind is not None and is_text == (kind == "bytes"):
        found = type(message).__name__
        raise TypeError(f"publish(kind={kind!r}): the message is {found}; JSON and text are str")
    if kind == "json" and isinstance(message, str) and message.lstrip(_JSON_SPACE)[:1] == '"':
        # Peers that speak JSON get text as a string anyhow, and the others get what it says.
        message, kind = _text_of(message)
        is_string = kind == "text"
    if key is not None:
        check_kind("publish", "key", key, str)
        check_message("publish(key=…)", key)
        if len(key) > _MAX_KEY:
            raise ValueError(f"publish(key=…): {len(key)} characters, at most {_MAX_KEY} can be")
    if publisher is not None:
        check_kind("publish", "publisher", publisher, Publisher)
    if tags is not None:
        check_kind("publish", "tags", tags, Mapping)
    return message, details_of(kind == "json", is_string, key, tags, publisher)


def details_of(
    is_json: bool,
    is_string: bool,
    key: str | None,
    tags: Mapping[str, str] | None,
    publisher: Publisher | None,
) -> Details:
    """Details that are right; NOTHING where nothing is said."""
    if key is None and not tags and publisher is None:
        return _ONLY_STRING if is_string else _ONLY_JSON if is_json else NOTHING
    size = _DETAILS_BYTES
    if key is not None:
        size += _KEY_BYTES + sys.getsizeof(key)
    kept = NO_TAGS
    if tags:
        kept, size_of_tags = _keep(tags)
        size += size_of_tags
    if publisher is not None:
        # It may be shared by many, which nobody can tell once some of them are gone.
        size += sum(map(sys.getsizeof, (publisher, publisher.id, publisher.info)))
    return Details(is_json, is_string, key, kept, publisher, size)


@cache
def _decoder() -> JSONDecoder:
    # Here, since few publish JSON that is a string.
    from json import JSONDecoder

    return JSONDecoder()


def _text_of(text: str) -> tuple[str, Kind]:
    """What the JSON string *text* says, and the kind that this is."""
    value: str
    # In half the time of `json.loads`.
    stripped = text.strip(_JSON_SPACE)
    value, end = _decoder().raw_decode(stripped)
    if end < len(stripped):
        raise ValueError("publish(kind='json'): something stands behind the string")
    try:
        value.encode()
    except UnicodeEncodeError:
        return text, "json"  # half a pair of surrogates can only be said in JSON
    return value, "text"


def _keep(tags: Mapping[str, str]) -> tuple[Mapping[str, str], int]:
    """*tags* as a publication keeps them, and the memory that they take."""
    kept = dict(tags)
    size = sys.getsizeof(kept)
    for name, value in kept.items():
        for text in (name, value):
            check_message(f"publish(tags={{{name!r}: …}})", text)
            check_kind("publish", f"tags[{name!r}]", text, str)
            size += sys.getsizeof(text)
    return MappingProxyType(kept), size
