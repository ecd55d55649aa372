"""What a parent and its workers say to each other, as tuples that `marshal` can write.

The first item of each is its code.  Both ends are the same version of the same program on one
machine, started by one user, so that neither has to fear what the other sends.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from .._policy import Retain
from .._topics._commands import (
    Answer,
    Ask,
    Changed,
    Command,
    Count,
    Counted,
    Done,
    Enter,
    Entry,
    Expire,
    Leave,
    Load,
    Loaded,
    Members,
    Ping,
    Present,
    Publish,
    Push,
    Reap,
    Reaped,
    Refusal,
    Renew,
    Renewed,
    Standing,
    Stored,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Watch,
    new_entry,
    new_publish,
)
from .._topics._details import NOTHING, Details, Publisher, details_of
from .._topics._position import Position, new_position

Words: TypeAlias = tuple[Any, ...]

# Commands and answers that are told as they stand, whose codes are their places here.
_PLAIN: Final[tuple[type[Any], ...]] = (
    *(Unsubscribe, Ping, Refusal, Done),
    *(Renew, Expire, Enter, Leave, Members, Count, Watch, Unwatch, Reap),
    *(Renewed, Present, Counted, Reaped),
)
_PLAIN_CODES: Final = {kind: code for code, kind in enumerate(_PLAIN)}
# The others of a worker, and of a parent.
PUBLISH, SUBSCRIBE, ASK, LOAD = range(50, 54)
PUBLISHED, STANDING, LOADED, PUSH, CHANGED = range(50, 55)
# Up to here all is between a node and the engine; in front of WELCOME, within a session.
WELCOME: Final = 98
LAST_OF_ENGINE: Final = 99

# A worker begins a session: its number, and the node.  It has begun at a WELCOME to that number,
# and ends at a LOST, which says why.
HELLO: Final = 98
LOST: Final = 99
# A worker serves.
READY: Final = 100
# Tell your statistics: the number of the question, and whether a page of metrics is wanted, too.
TELL: Final = 101
# Here they are: the number of the question, or 0 for the last ones.
NUMBERS: Final = 102
# A worker wants the statistics of all: the number of its question.  Here they are.
ASK_ALL, ALL = 103, 104
# A worker is to end softly: the close code, and whether another one goes on.
DRAIN: Final = 105
# A worker has all others do something: the number of its question, what, and the data for that.
# Each of these does it, and says what came of it; here is the answer of each, with its number.
ASK_OTHERS, DO, DONE, OTHERS = range(106, 110)


def say_command(command: Command) -> Words:
    match command:
        case Publish():
            topic, retain, number, entry, is_retry = command
            return PUBLISH, topic, _say_retain(retain), number, say_entry(entry), is_retry
        case Subscribe() | Ask():
            topic, retain, *rest = command
            code = SUBSCRIBE if isinstance(command, Subscribe) else ASK
            return code, topic, _say_retain(retain), *rest
        case Load():
            topic, retain, *rest = command
            return LOAD, topic, _say_retain(retain), *rest
        case _:
            return _PLAIN_CODES[type(command)], *command


def hear_command(words: Words) -> Command:
    code = words[0]
    if code == PUBLISH:
        _, topic, retain, number, entry, is_retry = words
        return new_publish((topic, _hear_retain(retain), number, _hear_entry(entry), is_retry))
    if code == SUBSCRIBE:
        return Subscribe(words[1], _hear_retain(words[2]), *words[3:])
    if code == ASK:
        return Ask(words[1], _hear_retain(words[2]), *words[3:])
    if code == LOAD:
        return Load(words[1], _hear_retain(words[2]), *words[3:])
    command: Command = _PLAIN[code](*words[1:])
    return command


def say_answer(answer: Answer) -> Words:
    match answer:
        case Position():
            return say_published(*answer, 1)
        case Standing():
            *standing, entries = answer
            return STANDING, *standing, list(map(_say_stored, entries))
        case Loaded():
            epoch, oldest, entries = answer
            return LOADED, epoch, oldest, list(map(_say_stored, entries))
        case _:
            return _PLAIN_CODES[type(answer)], *answer


def hear_answers(words: Words) -> Sequence[Answer]:
    """The answers to one command, or to several ones behind each other."""
    code = words[0]
    if code == PUBLISHED:
        _, epoch, offset, count = words
        return [new_position((epoch, at)) for at in range(offset, offset + count)]
    if code == STANDING:
        _, epoch, head, begin, oldest, entries = words
        return (Standing(epoch, head, begin, oldest, _hear_entries(entries)),)
    if code == LOADED:
        return (Loaded(words[1], words[2], _hear_entries(words[3])),)
    answer: Answer = _PLAIN[code](*words[1:])
    return (answer,)


def say_published(epoch: str, offset: int, count: int) -> Words:
    """Answer *count* publications, the first of which is there, and the others behind it."""
    return PUBLISHED, epoch, offset, count


def say_pushes(topic: str, epoch: str, offset: int, entries: Sequence[Words]) -> Words:
    """Push entries, each as `say_entry` has it: the first is there, the others behind it."""
    return PUSH, topic, epoch, offset, entries


def hear_pushes(words: Words) -> list[Push]:
    _, topic, epoch, offset, entries = words
    return [
        Push(topic, epoch, Stored(at, _hear_entry(entry), 0))
        for at, entry in enumerate(entries, offset)
    ]


def say_change(change: Changed) -> Words:
    return CHANGED, *change


def hear_change(words: Words) -> Changed:
    return Changed(*words[1:])


def say_entry(entry: Entry) -> Words:
    id, frame, skip, details, size = entry
    return id, frame, skip, None if details is NOTHING else _say_details(details), size


def _hear_entry(words: Words) -> Entry:
    id, frame, skip, details, size = words
    told = NOTHING if details is None else _hear_details(details)
    return new_entry((id, frame, skip, told, size))


def _say_stored(stored: Stored) -> Words:
    offset, entry, age = stored
    return offset, say_entry(entry), age


def _hear_entries(entries: Sequence[Words]) -> list[Stored]:
    return [Stored(offset, _hear_entry(entry), age) for offset, entry, age in entries]


def _say_retain(retain: Retain) -> Words:
    return retain.max_messages, retain.max_bytes, retain.max_age, retain.patience


# There are as many as a program has kinds of topics.
@lru_cache(64)
def _hear_retain(words: Words) -> Retain:
    max_messages, max_bytes, max_age, patience = words
    return Retain(
        max_messages=max_messages, max_bytes=max_bytes, max_age=max_age, patience=patience
    )


def _say_details(details: Details) -> Words:
    publisher = details.publisher
    return (
        details.is_json,
        details.is_string,
        details.key,
        dict(details.tags) or None,
        None if publisher is None else (publisher.id, publisher.info),
    )


def _hear_details(told: Words) -> Details:
    is_json, is_string, key, tags, publisher = told
    known = None if publisher is None else Publisher(*publisher)
    return details_of(is_json, is_string, key, tags, known)
