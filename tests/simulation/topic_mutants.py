"""Mutants of topic clients and their server, to prove that the checks of `topic_world` can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from msgspec import structs

from trioweb import Gap, Position, Recovery, ServerSubscriptions, Topic, Welcome
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._replies import Unsubscribe
from trioweb._topic_client._following import Following
from trioweb._topic_client._granted import GrantedTopics
from trioweb._topic_client._line import Line
from trioweb._topic_server import _seat, _session
from trioweb._topic_server._admission import begin
from trioweb._topic_server._calls import Calls
from trioweb._topic_server._due import Due
from trioweb._topic_server._member import Member
from trioweb._topic_server._presence import Announcer
from trioweb._topic_server._room import Room, wire_publication
from trioweb._topic_server._seat import Seat
from trioweb._topics import Since
from trioweb._topics._presence import LocalPresence

from .mutants import Mutants

_recovery = Topic.recovery
_post: Any = Topic.post
_subscribe = Room.subscribe
_ping_next = Due._ping_next
_put = Following._put
_publish = Following._publish
_is_told = Announcer.is_told


def _call_it_recovered(topic: Topic, since: Since | None, history: int = 0) -> Recovery:
    return replace(_recovery(topic, since, history), recovered=True)


def _recover_nothing(topic: Topic, since: Since | None, history: int = 0) -> Recovery:
    return replace(_recovery(topic, since, history), recovered=False)


def _post_whatever_the_key(self: Topic, message: Any, *, key: str | None, **details: Any) -> Any:
    return _post(self, message, **details)


def _subscribe_too_early(self: Room, member: Member, position: Position, slow: Any) -> Any:
    return _subscribe(self, member, position._replace(offset=max(position.offset - 1, 0)), slow)


def _go_on_delivering(self: Seat, member: Member) -> None:
    if self.subscription is not None:
        self.subscription = None
        member._server._presence.leave(self.name, member.client)
        member._server._leave(self.name)


def _ping_ever_later(self: Due, due: float) -> None:
    _ping_next(self, due + 0.25)


def _tell_of_no_leaving(self: Announcer, name: str, *, has_left: bool) -> bool:
    return not has_left and _is_told(self, name, has_left=False)


def _stay_present(self: LocalPresence, topic: str, key: str) -> None:
    pass


def _let_calls_go_on(self: Calls) -> None:
    pass


def _hide_gaps(self: Following, item: Any) -> None:
    if not isinstance(item, Gap):
        _put(self, item)


def _drop_what_has_no_room(self: Following, line: Line, publication: wire.Publication) -> None:
    if len(self.items) < self._max_messages:
        _publish(self, line, publication)
    elif self.received is not None:
        self.received = Position(self.received.epoch, publication.offset)


def _begin_anew(member: Member, request: wire.ConnectRequest, welcome: Welcome) -> Any:
    return begin(member, structs.replace(request, subs={}), welcome)


def _say_nowhere(self: GrantedTopics) -> dict[str, wire.SubscribeRequest]:
    return {}


def _say_it_is_over(self: Member, topic: str, code: int = 2000, reason: str = "over") -> None:
    self._push(topic, Unsubscribe(code=code, reason=reason))


def _tell_no_gap(self: ServerSubscriptions[Any], gap: Gap) -> None:
    pass


def _all_in_the_reply(member: Member, topic: Topic, start: Position) -> list[wire.Publication]:
    return [wire_publication(member._codec, each) for each in topic.history(start.offset)]


def _encode_for_each(self: Room, member: Member, position: Position, slow: Any) -> Any:
    self._encoders.clear()
    return _subscribe(self, member, position, slow)


TOPIC_MUTANTS: Final[Mutants] = {
    "what is forgotten is called recovered": (Topic, "recovery", _call_it_recovered),
    "nothing is called recovered": (Topic, "recovery", _recover_nothing),
    "a key does not keep from publishing twice": (Topic, "post", _post_whatever_the_key),
    "a subscription begins before its position": (Room, "subscribe", _subscribe_too_early),
    "a subscription outlives its end": (Seat, "leave", _go_on_delivering),
    "pings come ever later": (Due, "_ping_next", _ping_ever_later),
    "nobody hears who leaves": (Announcer, "is_told", _tell_of_no_leaving),
    "who leaves stays present": (LocalPresence, "leave", _stay_present),
    "calls outlive their connection": (Calls, "cancel_all", _let_calls_go_on),
    "gaps are not told": (Following, "_put", _hide_gaps),
    "what has no room is lost": (Following, "_publish", _drop_what_has_no_room),
    "the server does not hear how far a client has its topics": (_session, "begin", _begin_anew),
    "a client does not say how far it has them": (GrantedTopics, "positions", _say_nowhere),
    "what the server has taken back goes on": (Member, "unsubscribe", _say_it_is_over),
    "gaps are not told where the server subscribes": (
        ServerSubscriptions,
        "_put_gap",
        _tell_no_gap,
    ),
    "all that was missed is in the reply": (_seat, "_missed", _all_in_the_reply),
    "each member has an encoding of its own": (Room, "subscribe", _encode_for_each),
}
