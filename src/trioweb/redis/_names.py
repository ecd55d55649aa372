"""What the keys and channels of a topic are called.  Pure."""

from __future__ import annotations

from typing import Final

_CHANNEL: Final = b":c"
_PRESENCE: Final = b":w"


class Names:
    """The names of an application.

    A topic's keys have it in braces, so that a cluster keeps them together.  Channels know of no
    databases, so they say which one theirs is.

    Args:
        prefix: what all of them begin with.
        database: the number of the database.

    Attributes:
        leases: those of all nodes.
    """

    __slots__ = ("_end", "_prefix", "_presence_end", "_start_of_all", "leases")

    def __init__(self, prefix: str, database: int) -> None:
        self._start_of_all = prefix.encode() + b":"
        self._prefix = self._start_of_all + b"{"
        self._end = b"}" + _CHANNEL + str(database).encode()
        self._presence_end = b"}" + _PRESENCE + str(database).encode()
        self.leases = self._start_of_all + b"leases"

    @property
    def engines(self) -> bytes:
        """The engines that the application has had, by generation."""
        return self._prefix[:-1] + b"engines"

    def keys(self, topic: str) -> tuple[bytes, bytes, bytes]:
        """The record, the stream, and what was published with a key."""
        start = self._start(topic)
        return start + b":m", start + b":s", start + b":k"

    def packed_keys(self, topic: str) -> bytes:
        """The same as words of a command, as they are sent."""
        start = self._start(topic)
        start = b"$%d\r\n%b" % (len(start) + 2, start)
        return b"".join((start, b":m\r\n", start, b":s\r\n", start, b":k\r\n"))

    def node(self, topic: str, node: str) -> bytes:
        """What *node* has published last."""
        return self._start(topic) + b":n:" + node.encode()

    def presence(self, topic: str) -> tuple[bytes, ...]:
        """Who is in a topic, their users, the version of the last change; and all leases."""
        start = self._start(topic)
        return start + b":p", start + b":u", start + b":v", self.leases

    def topics_of(self, lease: str) -> bytes:
        """Where a lease has somebody."""
        return self._start_of_all + b"topics:" + lease.encode()

    def channel(self, topic: str) -> bytes:
        return self._prefix + self.encode(topic) + self._end

    def presence_channel(self, topic: str) -> bytes:
        return self._prefix + self.encode(topic) + self._presence_end

    def topic(self, channel: bytes) -> str:
        """The topic of a channel that has such a name."""
        return self.decode(channel[len(self._prefix) : -len(self._end)])

    def is_of_presence(self, channel: bytes) -> bool:
        """Whether the channel, which has one of these names, is about who is in a topic."""
        return channel.endswith(self._presence_end)

    # Any str can be the name of a topic.

    @staticmethod
    def encode(topic: str) -> bytes:
        return topic.encode("utf-8", "surrogatepass")

    @staticmethod
    def decode(name: bytes) -> str:
        return name.decode("utf-8", "surrogatepass")

    def _start(self, topic: str) -> bytes:
        return self._prefix + self.encode(topic) + b"}"
