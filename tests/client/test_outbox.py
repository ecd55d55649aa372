"""The outbox against a naive model of it, and what only one sequence of calls shows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from trioweb import Outbox
from trioweb._client._outbox import Entry, OutboxQueue, message_of


@dataclass
class _Item:
    """What the model knows of a message."""

    number: int
    entry: Entry
    sent: bool = False
    times: int = 0
    in_vain: int = 0


class OutboxMachine(RuleBasedStateMachine):
    """Invariant 8: within its bounds.  Invariant 9: in order.  Invariant 4: drops are counted."""

    @initialize(
        max_messages=st.integers(1, 5),
        max_bytes=st.integers(1, 20),
        kind=st.sampled_from(["wait", "drop", "confirm"]),
    )
    def begin(self, max_messages: int, max_bytes: int, kind: str) -> None:
        self.policy = Outbox(
            max_messages=max_messages,
            max_bytes=max_bytes,
            full="drop" if kind == "drop" else "wait",
            confirm=kind == "confirm",
            max_resends=3,
        )
        self.outbox = OutboxQueue(self.policy)
        self.items: list[_Item] = []
        self.accepted = self.dropped = self.resent = 0
        self.given_up: list[bytes] = []

    @property
    def waiting(self) -> list[_Item]:
        return [item for item in self.items if not item.sent]

    # ASCII, as it may be text.
    @rule(payload=st.text("ab", max_size=20).map(str.encode), keep_first=st.booleans())
    def put(self, payload: bytes, keep_first: bool) -> None:
        entry = (self.accepted % 2 + 1, payload)
        if len(payload) > self.policy.max_bytes:
            with pytest.raises(ValueError, match=rf"message of {len(payload)} bytes"):
                self.outbox.check_size(len(payload))
            return
        self.outbox.check_size(len(payload))
        if not self.outbox.has_room(len(payload)):
            if self.policy.full != "drop" or (keep_first and len(self.items) == 1):
                return
            self.outbox.drop_for(len(payload), keep_first=keep_first)
            while not self._fits(len(payload)) and len(self.items) > keep_first:
                del self.items[int(keep_first)]
                self.dropped += 1
            if not self._fits(len(payload)):
                return
        self.accepted += 1
        self.items.append(_Item(self.accepted, entry))
        assert self.outbox.put(entry) == self.accepted

    def _fits(self, size: int) -> bool:
        used = sum(len(item.entry[1]) for item in self.items)
        return len(self.items) < self.policy.max_messages and (used + size <= self.policy.max_bytes)

    @rule(data=st.data(), max_messages=st.integers(1, 4), max_bytes=st.integers(1, 12))
    def write(self, data: st.DataObject, max_messages: int, max_bytes: int) -> None:
        batch = self.outbox.next_batch(max_messages, max_bytes)
        waiting = self.waiting
        assert batch == [item.entry for item in waiting[: len(batch)]]
        assert len(batch) <= max_messages
        assert bool(batch) == bool(waiting)
        size = sum(len(payload) for _, payload in batch)
        assert size <= max_bytes or len(batch) == 1
        if len(batch) < min(max_messages, len(waiting)):
            assert size + len(waiting[len(batch)].entry[1]) > max_bytes
        count = data.draw(st.integers(0, len(batch)))
        for item in waiting[:count]:
            item.sent = True
            item.times += 1
            self.resent += item.times > 1
        self.outbox.mark_sent(count)
        if not self.policy.confirm:
            self.items = [item for item in self.items if not item.sent]

    @precondition(lambda self: self.policy.confirm)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        in_flight = len(self.items) - len(self.waiting)
        count = data.draw(st.integers(0, in_flight))
        self.outbox.settle(self.accepted - len(self.items) + count)
        del self.items[:count]

    @rule()
    def reconnect(self) -> None:
        self.outbox.rewind()
        for item in self.items:
            item.sent = False

    @precondition(lambda self: self.policy.confirm)
    @rule()
    def reconnect_in_vain(self) -> None:
        found = self.outbox.give_up()
        for item in self.items:
            item.in_vain += item.sent
        lost = [item for item in self.items if item.in_vain >= 3]
        # Those that were sent too often are the first ones.
        assert self.items[: len(lost)] == lost
        del self.items[: len(lost)]
        assert [(each.message, each.sends) for each in found] == [
            (message_of(item.entry), 3) for item in lost
        ]
        self.given_up += [item.entry[1] for item in lost]
        self.reconnect()

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "outbox"):
            return
        outbox = self.outbox
        assert len(outbox) == len(self.items) <= self.policy.max_messages
        assert outbox.size == sum(len(item.entry[1]) for item in self.items)
        assert outbox.size <= self.policy.max_bytes
        assert outbox.accepted == self.accepted
        assert outbox.settled == self.accepted - len(self.items)
        oldest = self.items[0].number if self.items else self.accepted + 1
        assert outbox.is_settled(oldest - 1)
        assert not outbox.is_settled(oldest)
        assert outbox.waiting == len(self.waiting)
        assert outbox.dropped == self.dropped
        assert outbox.resent == self.resent
        assert outbox.undelivered == len(self.given_up)
        assert outbox.unsent == len(self.items) + len(self.given_up)
        messages = [
            text.encode() if isinstance(text, str) else text for text in outbox.unsent_messages()
        ]
        payloads = [*self.given_up, *(item.entry[1] for item in self.items)]
        # Within the bounds, once more.
        assert messages == payloads[len(payloads) - len(messages) :]
        assert len(messages) <= 2 * self.policy.max_messages
        assert sum(map(len, messages)) <= 2 * self.policy.max_bytes


TestOutbox = OutboxMachine.TestCase


def test_message_larger_than_the_outbox_is_named_with_the_bound() -> None:
    outbox = OutboxQueue(Outbox(max_bytes=10))
    outbox.check_size(10)
    with pytest.raises(ValueError, match=r"message of 11 bytes.*Outbox\(max_bytes=10\)"):
        outbox.check_size(11)


def test_drop_for_keeps_the_first_when_it_is_half_written() -> None:
    outbox = OutboxQueue(Outbox(max_messages=2, full="drop"))
    for payload in (b"half", b"old"):
        outbox.put((1, payload))
    outbox.drop_for(3, keep_first=True)
    outbox.put((1, b"new"))
    assert outbox.next_batch(9, 99) == [(1, b"half"), (1, b"new")]
    assert outbox.dropped == 1


def test_mark_sent_counts_what_was_written_before_as_resent() -> None:
    outbox = OutboxQueue(Outbox(confirm=True))
    for n in range(4):
        outbox.put((1, b"%d" % n))
    outbox.mark_sent(3)
    outbox.settle(1)
    outbox.rewind()
    assert [payload for _, payload in outbox.next_batch(9, 99)] == [b"1", b"2", b"3"]
    outbox.mark_sent(3)
    assert outbox.resent == 2
