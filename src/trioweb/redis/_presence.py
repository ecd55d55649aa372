"""Who is in which topic, as it is said to a Redis and heard from it.

`_scripts/presence.lua` says how it stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from .._topics._commands import (
    Answer,
    Changed,
    Count,
    Counted,
    Done,
    Enter,
    Expire,
    Leave,
    Members,
    PresenceCommand,
    Present,
    Reap,
    Reaped,
    Renew,
    Renewed,
    Unwatch,
    Watch,
)
from ._names import Names

Words: TypeAlias = tuple[Any, ...]
# What may be refused, and is done later then.
REFUSABLE: Final = (Enter, Leave, Renew, Expire, Reap)


def say_presence(
    names: Names, scripts: Mapping[str, bytes], command: PresenceCommand
) -> tuple[Words, Callable[[Any], Answer]]:
    """The words of *command*, and what reads the reply."""

    def evaluate(script: str, topic: str, lease: str | None, *more: object) -> Words:
        keys = names.presence(topic)
        if lease is not None:
            keys += (names.topics_of(lease),)
            more = (lease, *more)
        channel = names.presence_channel(topic)
        return b"EVALSHA", scripts[script], len(keys), *keys, channel, *more

    match command:
        case Enter(topic, lease, key, user, info):
            more = key, user, info, names.encode(topic)
            return evaluate("enter", topic, lease, *more), _done
        case Leave(topic, lease, key, is_last):
            left = [names.encode(topic)] if is_last else []
            return evaluate("leave", topic, lease, key, *left), _done
        case Members(topic, cursor):
            return evaluate("members", topic, None, cursor), _present
        case Reap(topic, lease, cursor):
            return evaluate("reap", topic, lease, cursor, names.encode(topic)), _reaped
        case Count(topic):
            return evaluate("count", topic, None), _counted
        case Renew(lease, seconds):
            milliseconds = round(seconds * 1000)
            words = b"EVALSHA", scripts["renew"], 1, names.leases, lease, milliseconds
            return (*words, names.topics_of("")), _renewed
        case Expire(lease):
            return (b"ZADD", names.leases, b"XX", 0, lease), _done
        case Watch(topic):
            return (b"SUBSCRIBE", names.presence_channel(topic)), _done
        case Unwatch(topic):
            return (b"UNSUBSCRIBE", names.presence_channel(topic)), _done


def _done(reply: object) -> Answer:
    return Done()


def _present(reply: Any) -> Answer:
    version, cursor, *flat = reply
    keys, users, infos = flat[::3], flat[1::3], flat[2::3]
    return Present(
        version,
        cursor.decode(),
        [
            (key.decode(), user.decode(), info)
            for key, user, info in zip(keys, users, infos, strict=True)
        ],
    )


def _counted(reply: Any) -> Answer:
    members, users = reply
    return Counted(members, users)


def _reaped(reply: Any) -> Answer:
    return Reaped(reply.decode())


def _renewed(reply: Any) -> Answer:
    is_new, expired, topics = reply
    return Renewed(bool(is_new), expired.decode(), [Names.decode(topic) for topic in topics])


def read_change(topic: str, data: bytes) -> Changed:
    """What a script has told: version, sign, then key and user with their sizes, and the info.

    Raises:
        ValueError, LookupError: it is none of theirs.
    """
    version, rest = data.split(b" ", 1)
    key, rest = _take(rest[1:])
    user, info = _take(rest)
    is_there = data[len(version) + 1 :].startswith(b"+")
    return Changed(topic, int(version), key.decode(), user.decode(), info, is_there)


def _take(data: bytes) -> tuple[bytes, bytes]:
    size, rest = data.split(b":", 1)
    end = int(size)
    return rest[:end], rest[end:]
