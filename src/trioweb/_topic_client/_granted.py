"""Topics to which the server subscribes the client by itself: where the client is in each.

The server's word alone begins and ends these subscriptions.  The client says how far it has them
when it connects, so that what was missed is recovered or told.

NOTE: A topic that is not subscribed any more keeps its position: the server may subscribe the
client to it again long after `connect`, and what lies between the two was missed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from trio.lowlevel import enable_ki_protection

from .._centrifuge import _schema as wire
from .._centrifuge._replies import Join, Leave, Push, Subscribe, Unsubscribe
from .._centrifuge._table import MAX_ENTRIES
from .._errors import Gap, Unsubscribed
from .._topics import Position
from ._granted_stream import ServerSubscriptions
from ._items import Joined, Left, ServerItem, Subscribed, member_of, publication_of, value_of
from ._line import Line
from ._place import beginning

# As many as clients are known to have; a server must not make one hold names without end.
_MAX_TOPICS: Final = 1000


class _Place:
    """How far the client has a topic.

    Attributes:
        received: behind the last publication; None in a topic without positions.
        is_subscribed: on the present connection.
        is_said: it was subscribed at the end of the last connection on which the server has said
            to which topics; then the next `connect` says how far the client has it.
        is_invalid: the server has said that positions of before are no good.
    """

    __slots__ = ("is_invalid", "is_said", "is_subscribed", "received")

    def __init__(self) -> None:
        self.received: Position | None = None
        self.is_subscribed = self.is_said = self.is_invalid = False


class GrantedTopics:
    """All topics that the server has ever subscribed the client to.

    Attributes:
        streams: what gives them to the program.
    """

    def __init__(self) -> None:
        self.streams: weakref.WeakSet[ServerSubscriptions[Any]] = weakref.WeakSet()
        self._places: dict[str, _Place] = {}

    def has(self, topic: str) -> bool:
        """Whether the server has subscribed the client to *topic*, now."""
        place = self._places.get(topic)
        return place is not None and place.is_subscribed

    def positions(self) -> dict[str, wire.SubscribeRequest]:
        """How far the client has the topics that it had last, for `connect`.

        No others: servers bound what a command may hold, and end a client that says more.
        """
        said = {
            topic: wire.SubscribeRequest(
                recover=True, epoch=place.received.epoch, offset=place.received.offset
            )
            for topic, place in self._places.items()
            if place.received is not None and place.is_said and not place.is_invalid
        }
        return dict(islice(said.items(), MAX_ENTRIES))

    # What the server says, in its order.  An interrupt in the middle would lose some of it.

    @enable_ki_protection
    def connected(
        self,
        line: Line,
        asked: Mapping[str, wire.SubscribeRequest],
        told: Mapping[str, wire.SubscribeResult],
    ) -> None:
        """The server has answered the positions that were *asked* for by what it *told*."""
        for place in self._places.values():
            place.is_said = False
        for topic, result in told.items():
            self._begin(line, topic, asked.get(topic, wire.SubscribeRequest()), result)

    @enable_ki_protection
    def hear(self, line: Line, push: Push) -> None:
        """Something has happened to a topic that the client itself does not follow."""
        topic = push.topic
        place = self._places.get(topic)
        match push.event:
            case Subscribe() as told:
                result = wire.SubscribeResult(
                    recoverable=told.recoverable,
                    positioned=told.positioned,
                    epoch=told.epoch,
                    offset=told.offset,
                    data=told.data,
                )
                self._begin(line, topic, wire.SubscribeRequest(), result)
            case _ if place is None or not place.is_subscribed:
                pass
            case wire.Publication() as publication:
                self._publish(line, topic, place, publication)
            case Join(info=wire.ClientInfo() as info):
                self._tell(topic, Joined(member_of(line.codec, info)))
            case Leave(info=wire.ClientInfo() as info):
                self._tell(topic, Left(member_of(line.codec, info)))
            case Unsubscribe(code=code, reason=reason):
                place.is_subscribed = place.is_said = False
                self._tell(topic, Unsubscribed(code, reason))

    def _begin(
        self,
        line: Line,
        topic: str,
        request: wire.SubscribeRequest,
        result: wire.SubscribeResult,
    ) -> None:
        place = self._places.get(topic)
        is_new = place is None
        if place is None:
            if not self._make_room():
                line.connection.link.abort(
                    f"the server subscribes this client to more than {_MAX_TOPICS:,} topics"
                )
                return
            place = self._places[topic] = _Place()
        since = place.received
        known = None if place.is_invalid else since
        place.received, recovered = beginning(known, request, result)
        place.is_subscribed, place.is_said, place.is_invalid = True, True, False
        if not is_new and not recovered:
            for stream in self.streams:
                stream._put_gap(Gap(topic, since, place.received))
        data = value_of(line.codec, result.data)
        self._tell(topic, Subscribed(is_new or recovered, place.received, data))
        for publication in result.publications:
            self._publish(line, topic, place, publication)

    def _make_room(self) -> bool:
        """Forget a topic that is not subscribed any more, if there are too many."""
        if len(self._places) < _MAX_TOPICS:
            return True
        for topic, place in self._places.items():
            if not place.is_subscribed:
                del self._places[topic]
                return True
        return False

    def _publish(
        self, line: Line, topic: str, place: _Place, publication: wire.Publication
    ) -> None:
        since = place.received
        if since is not None and publication.offset:
            if publication.offset <= since.offset:
                return
            place.received = Position(since.epoch, publication.offset)
        item = publication_of(line.codec, publication)
        for stream in self.streams:
            stream._put_publication(topic, item, since, place.received)

    def _tell(self, topic: str, item: ServerItem) -> None:
        for stream in self.streams:
            stream._put_event(topic, item)

    # The ends.

    @enable_ki_protection
    def lose(self, *, is_invalid: bool) -> None:
        """The connection is over.  Args: is_invalid: and the positions that it gave, too."""
        for place in self._places.values():
            place.is_subscribed = False
            place.is_invalid = place.is_invalid or is_invalid

    def finish(self, end: Callable[[], Exception]) -> None:
        """There will be no other connection; *end* makes the error that says why."""
        for stream in self.streams:
            stream._finish(end)
