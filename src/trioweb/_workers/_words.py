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
    Published,
    Push,
    Pushed,
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
)
from .._topics._details import NOTHING, Details, Publisher, details_of
from .._topics._position import Position

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


def say_command(command: Command) -> Words:
    match command:
        case Publish():
            topic, retain, number, (id, frame, skip, details), is_retry = command
            kept = _say_retain(retain)
            told = None if details is NOTHING else _say_details(details)
            return PUBLISH, topic, kept, number, id, frame, skip, told, is_retry
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
        _, topic, kept, number, id, frame, skip, told, is_retry = words
        details = NOTHING if told is None else _hear_details(told)
        entry = Entry(id, frame, skip, details)
        return Publish(topic, _hear_retain(*kept), number, entry, is_retry)
    if code == SUBSCRIBE:
        return Subscribe(words[1], _hear_retain(*words[2]), *words[3:])
    if code == ASK:
        return Ask(words[1], _hear_retain(*words[2]), *words[3:])
    if code == LOAD:
        return Load(words[1], _hear_retain(*words[2]), *words[3:])
    command: Command = _PLAIN[code](*words[1:])
    return command


def say_answer(answer: Answer) -> Words:
    match answer:
        case Published():
            return PUBLISHED, *answer.position
        case Standing():
            *standing, entries = answer
            return STANDING, *standing, list(map(_say_stored, entries))
        case Loaded():
            epoch, oldest, entries = answer
            return LOADED, epoch, oldest, list(map(_say_stored, entries))
        case _:
            return _PLAIN_CODES[type(answer)], *answer


def hear_answer(words: Words) -> Answer:
    code = words[0]
    if code == PUBLISHED:
        return Published(Position(words[1], words[2]))
    if code == STANDING:
        _, epoch, head, begin, oldest, entries = words
        return Standing(epoch, head, begin, oldest, _hear_entries(entries))
    if code == LOADED:
        return Loaded(words[1], words[2], _hear_entries(words[3]))
    answer: Answer = _PLAIN[code](*words[1:])
    return answer


def say_push(pushed: Pushed) -> Words:
    if isinstance(pushed, Changed):
        return CHANGED, *pushed
    topic, epoch, (offset, (id, frame, skip, details), _) = pushed
    told = None if details is NOTHING else _say_details(details)
    return PUSH, topic, epoch, offset, id, frame, skip, told


def hear_push(words: Words) -> Pushed:
    if words[0] == CHANGED:
        return Changed(*words[1:])
    _, topic, epoch, offset, id, frame, skip, told = words
    details = NOTHING if told is None else _hear_details(told)
    return Push(topic, epoch, Stored(offset, Entry(id, frame, skip, details), 0))


def _say_stored(stored: Stored) -> Words:
    offset, (id, frame, skip, details), age = stored
    return offset, id, frame, skip, None if details is NOTHING else _say_details(details), age


def _hear_entries(entries: Sequence[Words]) -> list[Stored]:
    return [
        Stored(
            offset, Entry(id, frame, skip, NOTHING if told is None else _hear_details(told)), age
        )
        for offset, id, frame, skip, told, age in entries
    ]


def _say_retain(retain: Retain) -> Words:
    return retain.max_messages, retain.max_bytes, retain.max_age, retain.patience


# There are as many as a program has kinds of topics.
@lru_cache(64)
def _hear_retain(
    max_messages: int, max_bytes: int, max_age: float | None, patience: float
) -> Retain:
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
