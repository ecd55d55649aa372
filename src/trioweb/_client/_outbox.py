"""The outbox: what a client has accepted and not yet handed over, or not yet had confirmed.

Pure: no I/O, no Trio.  Messages are numbered 1, 2, 3, … as they are accepted.

    base          sent              accepted
     │ in flight   │  waiting        │
     ▼             ▼                 ▼
    ─█─█─█─█─█─█─█─░─░─░─░─░─░─░─░─░─

With confirmation, what was sent stays in flight until it is confirmed, and `rewind` makes it
wait again, or `give_up` takes it out; without, it leaves with `sent`.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from .._policy import Message, Outbox
from .._protocol._frames import TEXT
from ._events import Undelivered

# opcode and payload of a frame.
Entry = tuple[int, bytes]

# What every outbox has until something is in it: an empty deque takes 760 bytes.
_NOTHING_YET: Final[deque[Entry]] = deque(maxlen=0)


def message_of(entry: Entry) -> Message:
    """The message that *entry* was made of, or equal to it."""
    opcode, payload = entry
    return payload.decode() if opcode == TEXT else payload


class OutboxQueue:
    """Messages in the order accepted, within the bounds of an Outbox.

    Attributes:
        accepted: the number of the last message accepted.
        sent: the number of the last one written on this connection.
        settled: the number of the last one that is out of the outbox.
        size: bytes of payload that it holds.
        dropped: messages dropped to make room.
        resent: messages that were written a second time or more.
        undelivered: messages that were given up.
    """

    __slots__ = (
        "_entries",
        "_ever_sent",
        "_given_up",
        "_overtook",
        "_sends",
        "accepted",
        "dropped",
        "policy",
        "resent",
        "sent",
        "settled",
        "size",
        "undelivered",
    )

    def __init__(self, policy: Outbox) -> None:
        self.policy = policy
        self.accepted = 0
        self.sent = 0
        self.settled = 0
        self.size = 0
        self.dropped = 0
        self.resent = 0
        self.undelivered = 0
        self._entries = _NOTHING_YET
        self._ever_sent = 0
        # How many were dropped from behind the first message, which is still here.
        self._overtook = 0
        # By number: how often a message was sent in vain.
        self._sends: dict[int, int] = {}
        # The last of those that were given up, for whoever asks in the end; within the bounds,
        # too, as a client may live for long.
        self._given_up: tuple[Message, ...] = ()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unsent(self) -> int:
        """How many messages have been accepted and not handed over, as far as is known."""
        return len(self._entries) + self.undelivered

    def unsent_messages(self) -> list[Message]:
        """They, in order; of those that were given up the last ones, within the bounds."""
        return [*self._given_up, *map(message_of, self._entries)]

    @property
    def will_resend(self) -> bool:
        """Whether the next message to be written on a new connection was written before."""
        return self.settled < self._ever_sent

    @property
    def waiting(self) -> int:
        """How many messages are still to be written on this connection."""
        return self.accepted - self.sent

    def check_size(self, size: int) -> None:
        """Raise ValueError if a message of *size* bytes can never be accepted."""
        if size > self.policy.max_bytes:
            raise ValueError(
                f"message of {size} bytes: larger than the outbox, Outbox(max_bytes="
                f"{self.policy.max_bytes})"
            )

    def has_room(self, size: int) -> bool:
        policy = self.policy
        return len(self._entries) < policy.max_messages and self.size + size <= policy.max_bytes

    def put(self, entry: Entry) -> int:
        """Accept a message; return its number.  There is room, or it was dropped for."""
        if self._entries is _NOTHING_YET:
            self._entries = deque()
        self._entries.append(entry)
        self.size += len(entry[1])
        self.accepted += 1
        return self.accepted

    def drop_for(self, size: int, *, keep_first: bool) -> None:
        """Drop the oldest messages until *size* bytes fit.

        Without confirmation nothing in the outbox has been sent, except that the first one
        may be half written: *keep_first*.
        """
        oldest = 1 if keep_first else 0
        while not self.has_room(size) and len(self._entries) > oldest:
            self.size -= len(self._entries[oldest][1])
            del self._entries[oldest]
            self.settled += 1
            self.sent += 1
            self.dropped += 1
            # NOTE: the numbers of what is left are those next to `accepted`, so the first one
            # takes over the number of what was dropped behind it.
            self._overtook = self._overtook + 1 if keep_first else 0

    def next_batch(self, max_messages: int, max_bytes: int) -> list[Entry]:
        """The next messages to write, at least one if any waits."""
        start = self.sent - self.settled
        batch: list[Entry] = []
        size = 0
        for entry in islice(self._entries, start, start + max_messages):
            size += len(entry[1])
            if batch and size > max_bytes:
                break
            batch.append(entry)
        return batch

    def mark_sent(self, count: int) -> None:
        """The next *count* messages have been written."""
        self.resent += max(0, min(self.sent + count, self._ever_sent) - self.sent)
        self.sent += count
        self._ever_sent = max(self._ever_sent, self.sent)
        if not self.policy.confirm:
            self.settle(self.sent)

    def settle(self, number: int) -> None:
        """Messages up to *number* are where they should be."""
        while self.settled < number:
            self._pop()

    def is_settled(self, number: int) -> bool:
        """Whether nothing is left of the messages that were up to *number* when accepted."""
        return self.settled - self._overtook >= number

    def rewind(self) -> None:
        """The connection is over: what is in flight is to be written again."""
        self.sent = self.settled

    def give_up(self) -> list[Undelivered]:
        """What is in flight was sent in vain; take out what that happened to too often."""
        sends = self._sends
        for number in range(self.settled + 1, self.sent + 1):
            sends[number] = sends.get(number, 0) + 1
        found: list[Undelivered] = []
        most = self.policy.max_resends
        # Who was sent was sent behind all that came before it, so none was sent more often.
        while most is not None and (count := sends.get(self.settled + 1, 0)) >= most:
            found.append(Undelivered(message_of(self._entries[0]), count))
            self._pop()
            self.undelivered += 1
        given_up = [*self._given_up, *(each.message for each in found)]
        policy = self.policy
        while len(given_up) > policy.max_messages or sum(map(len, given_up)) > policy.max_bytes:
            del given_up[0]
        self._given_up = tuple(given_up)
        return found

    def _pop(self) -> None:
        self.size -= len(self._entries.popleft()[1])
        self.settled += 1
        self._overtook = 0
        self._sends.pop(self.settled, None)
