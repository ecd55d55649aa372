"""What the keys and channels of a topic are called.  Pure."""

from __future__ import annotations

from typing import Final

_CHANNEL: Final = b":c"


class Names:
    """The names of an application.

    A topic's keys have it in braces, so that a cluster keeps them together.  Channels know of no
    databases, so they say which one theirs is.

    Args:
        prefix: what all of them begin with.
        database: the number of the database.
    """

    __slots__ = ("_end", "_prefix")

    def __init__(self, prefix: str, database: int) -> None:
        self._prefix = prefix.encode() + b":{"
        self._end = b"}" + _CHANNEL + str(database).encode()

    @property
    def engines(self) -> bytes:
        """The engines that the application has had, by generation."""
        return self._prefix[:-1] + b"engines"

    def keys(self, topic: str) -> tuple[bytes, bytes, bytes]:
        """The record, the stream, and what was published with a key."""
        start = self._start(topic)
        return start + b":m", start + b":s", start + b":k"

    def node(self, topic: str, node: str) -> bytes:
        """What *node* has published last."""
        return self._start(topic) + b":n:" + node.encode()

    def channel(self, topic: str) -> bytes:
        return self._prefix + _encode(topic) + self._end

    def topic(self, channel: bytes) -> str:
        """The topic of a channel that has such a name."""
        name = channel[len(self._prefix) : -len(self._end)]
        return name.decode("utf-8", "surrogatepass")

    def _start(self, topic: str) -> bytes:
        return self._prefix + _encode(topic) + b"}"


def _encode(topic: str) -> bytes:
    # Any str can be the name of a topic.
    return topic.encode("utf-8", "surrogatepass")
