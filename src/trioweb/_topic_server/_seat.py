"""A member's place in a topic: what was granted, where it starts, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trio.lowlevel import enable_ki_protection

from .._centrifuge._codes import ErrorCode
from .._centrifuge._schema import Publication as WirePublication
from .._centrifuge._schema import SubscribeRequest, SubscribeResult
from .._centrifuge._values import optional_payload_of
from .._refusals import Refuse
from .._topics import Position, Slow, Subscription, Topic
from .._topics._presence import Member as Present
from ._data import info_bytes
from ._room import encoded_size, wire_publication
from ._rules import GRANTED, Granted, TopicRules
from ._timetable import Entry

if TYPE_CHECKING:
    from ._member import Member

# Of what was missed so much is in the reply itself, as the reference server has it; more follows
# from the topic's log, of which all who come back share the bytes.
_BYTES_IN_REPLY: Final = 16 * 2**10
_PUBLICATIONS_IN_REPLY: Final = 64  # to encode more would take longer than a millisecond
# A client says so: an error instead of `recovered: false`.
_REJECT_UNRECOVERED: Final = 2


class Seat:
    """A member's subscription to a topic.

    Attributes:
        name: of the topic.
        rules: what it may do there.
        is_programs: it was the program that subscribed it.
        subscription: None until what the peer is told of it has been written.
        expiry: when it ends unless it is renewed.
    """

    __slots__ = (
        "_changes",
        "_granted",
        "expiry",
        "is_programs",
        "name",
        "rules",
        "subscription",
    )

    def __init__(self, name: str, rules: TopicRules, *, is_programs: bool) -> None:
        self.name = name
        self.rules = rules
        self.is_programs = is_programs
        self.subscription: Subscription | None = None
        self.expiry: Entry | None = None
        self._granted = GRANTED
        self._changes: Subscription | None = None

    def grant(self, granted: Granted) -> None:
        self._granted = granted
        self.rules = granted.applied_to(self.rules)

    @property
    def ttl(self) -> float | None:
        return self._granted.ttl

    @property
    def info(self) -> Any:
        """What others are told of this subscription."""
        return self._granted.info

    def take_if_wanted(self, member: Member, request: SubscribeRequest) -> SubscribeResult:
        """As `take`, unless the program or a refusal has been faster."""
        if member._seats.get(self.name) is not self:
            raise Refuse(ErrorCode.PERMISSION_DENIED)
        try:
            if not member._is_welcome:
                raise Refuse(ErrorCode.UNAUTHORIZED)
            return self.take(member, request)
        except BaseException:
            member._drop(self)
            raise

    # An interrupt in the middle would leave a member that is in a topic only in part.
    @enable_ki_protection
    def take(self, member: Member, request: SubscribeRequest) -> SubscribeResult:
        """Subscribe *member*; return what it is told, which has to be written at once.

        Raises:
            Refuse: the peer wants to recover all that it missed or nothing.
            HubFull, ConnectionClosed: as `Topic.subscribe`.

        Checkpoint: never, so that nothing is published between the two.
        """
        server = member._server
        room = server._room(self.name, self.rules)
        start, told = _start(member, room.topic, self.rules, request)
        data = optional_payload_of(member._codec, self._granted.data)
        # Whom the program subscribes, the peer cannot ask for more than the rules have.
        tells = self.rules.join_leave and (request.join_leave or self.is_programs)
        # Where all is recovered, nothing may be passed over either.
        slow: Slow | None = "evict" if self.rules.recover == "all" else None
        self.subscription = room.subscribe(member, start, slow)
        server._enter(room)
        try:
            if self._may_be_seen(member):
                info = info_bytes(member.user, member.client, member.info, self.info)
                seen = Present(member.user, info)
                server._presence.enter(self.name, member.client, seen)
            if tells:
                self._changes = room.listen(member, server._announcer.changes(self.name))
        except BaseException:
            self.leave(member)
            raise
        ttl = self.ttl
        if ttl is not None:
            told.update(expires=True, ttl=told_ttl(ttl))
            member._due.renew(self, ttl)
        return SubscribeResult(data=data, **told)

    @enable_ki_protection
    def leave(self, member: Member) -> None:
        """End the subscription, if there is one.  Idempotent."""
        subscription, self.subscription = self.subscription, None
        if subscription is None:
            return
        subscription.close()
        server = member._server
        if self._changes is not None:
            self._changes.close()
            server._announcer.rest(self.name)
        server._timetable.cancel(self.expiry)
        server._presence.leave(self.name, member.client)
        server._leave(self.name)

    def _may_be_seen(self, member: Member) -> bool:
        """Whether anybody may be told that *member* is there: by what it is granted itself, or by
        what the program grants others."""
        rules, decides = self.rules, member._server.callbacks.on_subscribe
        return rules.presence or rules.join_leave or decides is not None


def told_ttl(ttl: float | None) -> int:
    """*ttl* as the protocol has it: 0 for ever, so a client that is told 0 would never ask."""
    return 0 if ttl is None else min(max(1, int(ttl)), 2**32 - 1)


def _start(
    member: Member, topic: Topic, rules: TopicRules, request: SubscribeRequest
) -> tuple[Position, dict[str, Any]]:
    """Where a subscription starts, and what its subscriber is told of that."""
    head = Position(topic.epoch, topic.head)
    told: dict[str, Any] = {}
    is_recovered, start, publications = False, head, list[WirePublication]()
    if request.recover and rules.recover is not None:
        since = Position(request.epoch or head.epoch, request.offset)
        if rules.recover == "latest":
            is_recovered, start = _find_latest(topic, head, since, request)
        elif topic.recovery(since).recovered:
            is_recovered, start = True, since
        told["was_recovering"] = True
        told["recovered"] = is_recovered
    if request.recover and not is_recovered and request.flag & _REJECT_UNRECOVERED:
        raise Refuse(ErrorCode.UNRECOVERABLE_POSITION)
    if rules.recover is not None or request.positioned:
        # The publications that follow, in the reply or behind it, move it on.
        told.update(positioned=True, epoch=start.epoch, offset=start.offset)
    if rules.recover is not None:
        told["recoverable"] = True
    if start.offset < head.offset:
        publications = _missed(member, topic, start)
        if publications:
            start = head
    told["publications"] = publications
    return start, told


def _find_latest(
    topic: Topic, head: Position, since: Position, request: SubscribeRequest
) -> tuple[bool, Position]:
    """Where the newest publication is the only one that matters: whether what the peer has or
    gets is the newest, and where it starts."""
    if since == head and (head.offset or request.epoch):
        return True, head
    newest = topic.history(count=1, reverse=True)
    return bool(newest), Position(head.epoch, head.offset - len(newest))


def _missed(member: Member, topic: Topic, start: Position) -> list[WirePublication]:
    """All that *start* lacks, for the reply; nothing if that is too much for it."""
    if topic.head - start.offset > _PUBLICATIONS_IN_REPLY:
        return []
    found = []
    size = 0
    for publication in topic.history(start.offset):
        told = wire_publication(member._codec, publication)
        size += encoded_size(told)
        if size > _BYTES_IN_REPLY:
            return []
        found.append(told)
    return found
