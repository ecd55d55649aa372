"""How a message is described, and what of that both encodings need to know.

The classes in `_schema`, `_commands` and `_replies` are the table; `fields_of` reads it.  A
number's limits are in its type, for JSON as for Protobuf.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta, Raw, Struct, UnsetType, structs

from .._dataclass import dataclass

# Each entry of a map or list costs some hundred bytes, however few the peer has sent for it.  A
# connection has 128 subscriptions by default, and a browser sends a handful of headers.
MAX_ENTRIES: Final = 512
FEW: Final = Meta(max_length=MAX_ENTRIES)

UInt32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# msgspec has no bounds beyond 63 bits: see `Positioned`.
UInt64: TypeAlias = Annotated[int, Meta(ge=0)]
MAX_UINT64: Final = 2**64 - 1
Int32: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

# A Raw holds the whole line that it was read from: who keeps one takes its bytes.
Payload: TypeAlias = Raw | UnsetType

# The house says topic.  A field called `dict` would hide the type in the annotations after it.
_WIRE_NAMES: Final = {"topic": "channel", "dictionary": "dict"}


class Message(Struct, frozen=True, omit_defaults=True, gc=False, rename=_WIRE_NAMES):
    """A message of the protocol, or a part of one."""


_offset_of: Final = attrgetter("offset")


class Positioned(Message, frozen=True):
    """A message with an `offset`, which is its only UInt64."""

    def __post_init__(self) -> None:
        if _offset_of(self) > MAX_UINT64:
            raise ValueError("an offset is at most 2⁶⁴ − 1")


M = TypeVar("M", bound=Message)


class Kind(Enum):
    INTEGER = auto()
    BOOL = auto()
    TEXT = auto()
    RAW = auto()
    MESSAGE = auto()
    LIST = auto()
    MAP = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        name: the attribute; `wire` is the name in JSON.
        least, most: the range of an INTEGER; of a LIST or MAP, how many entries it may have.
        of: what a MESSAGE is; of a LIST or MAP, what its entries are: str or a message.
    """

    name: str
    wire: str
    number: int
    kind: Kind
    least: int = 0
    most: int | None = None
    of: Any = None


@cache
def fields_of(message: type[Message]) -> tuple[Field, ...]:
    """The fields of *message*, by number."""
    hints = get_type_hints(message, include_extras=True)
    found = [
        _field(field.name, field.encode_name, *get_args(hints[field.name]))
        for field in structs.fields(message)
    ]
    return tuple(sorted(found, key=lambda field: field.number))


def _field(name: str, wire: str, of: Any, *about: Any) -> Field:
    [number] = (fact for fact in about if isinstance(fact, int))
    limits = next((fact for fact in about if isinstance(fact, Meta)), Meta())
    if isinstance(of, UnionType):  # what may be left out
        of = get_args(of)[0]
    kinds = {int: Kind.INTEGER, bool: Kind.BOOL, str: Kind.TEXT, Raw: Kind.RAW}
    match get_origin(of) or of:
        case kind if kind in kinds:
            most = MAX_UINT64 if limits.le is None else int(limits.le)
            return Field(name, wire, number, kinds[kind], int(limits.ge or 0), most)
        case entries if entries in (list, dict):
            kind = Kind.LIST if entries is list else Kind.MAP
            *_, item = get_args(of)
            return Field(name, wire, number, kind, 0, limits.max_length, item)
        case _:
            return Field(name, wire, number, Kind.MESSAGE, of=of)


def first(values: tuple[Any, ...]) -> Any:
    """The first of *values* that is there."""
    for value in values:
        if value is not None:
            return value
    return None


def well_formed(text: str) -> str:
    """*text* with U+FFFD for each surrogate without its partner, which UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(message: M) -> M:
    """*message* with all of its text well formed."""
    return structs.replace(
        message,
        **{field.name: _mended(getattr(message, field.name)) for field in fields_of(type(message))},
    )


def _mended(value: Any) -> Any:
    match value:
        case str():
            return well_formed(value)
        case Message():
            return mended(value)
        case list():
            return [_mended(entry) for entry in value]
        case dict():
            return {well_formed(key): _mended(entry) for key, entry in value.items()}
        case _:
            return value
