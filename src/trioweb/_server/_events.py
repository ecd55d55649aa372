"""Server-Sent Events: a topic as a response that goes on, which a stock EventSource resumes.

A stream is a sink of the pump as a connection is: the same cursor, the same policies for the slow,
and what is encoded is shared by all streams of a topic.  Its task only waits, and keeps it alive.

Source: WHATWG HTML, Server-sent events.  An EventSource comes back from the end of an answer with
status 200, and from nothing else: one 503 ends it for ever.  So a peer that cannot be served now is
told in such an answer when to come back.
"""

from __future__ import annotations

import math
import re
from random import Random
from typing import Final, TypedDict

import trio
from trio.lowlevel import enable_ki_protection

from .._arguments import check_kind, check_sync
from .._chance import new_random
from .._errors import HubFull
from .._link import Spawn
from .._policy import Limits
from .._protocol._http import Address, Request, Response, Streamed
from .._topics import Encode, Subscription, Topic
from ._drain import Stop
from ._event_sink import EventForm, EventSink, block, retry_line
from ._leaving import Presence

_HEADERS: Final = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # nginx would keep events until it has a buffer full
    ("Vary", "Origin"),
)
# Whoever is sent away comes back after a random time between these, so that not all do at once.
_COME_BACK_SECONDS: Final = (2.0, 20.0)
# Whoever loses a stream that went well, likewise.
_RETRY_SECONDS: Final = (1.0, 5.0)
# Those who lag at the end are looked at so often.
_LOOK_SECONDS: Final = 0.05

_POSITION: Final = r"(?P<epoch>[^:\r\n\0]{1,64}):(?P<offset>[0-9]{1,18})"
# What comes back with anything else has the topic up to nobody knows where.
_NOWHERE: Final = ("", 0)
_COMMENT: Final = b":\n\n"


class _Place(TypedDict):
    """Where a stream begins; as for `Topic.subscribe`."""

    since: tuple[str, int] | None
    history: int


def wants_events(request: Request) -> bool:
    """Whether *request* asks for an event stream."""
    kinds = (token.partition(";")[0].strip() for token in request.headers.tokens("accept"))
    return "text/event-stream" in (kind.lower() for kind in kinds)


def come_back(random: Random | None = None) -> Response:
    """The answer to whoever asks for events that cannot be had now, after which it comes back."""
    seconds = (random or new_random()).uniform(*_COME_BACK_SECONDS)
    return Response(200, f"{retry_line(seconds)}\n", _HEADERS)


def event_stream(
    request: Request,
    topic: Topic,
    *,
    encode: Encode | None = None,
    retry: float | None = None,
    history: int = 0,
    peer: str | None = None,
    resume: bool = True,
    lifetime: float | None = None,
) -> Response:
    """The answer to *request* that goes on: *topic* as Server-Sent Events.

    Return it from `http`.  The `id` of an event is `epoch:offset`, so an EventSource that comes
    back gets what it missed, by `Last-Event-ID` or else by `?last_event_id=`; if that cannot be had
    in full, there is an event `gap` in its place, with `{"skipped": …}`: how many publications are
    known to be missing on this stream.  A block with an `id` alone stands in front, so that a peer
    resumes that has received nothing yet.  Text is sent as it is, bytes in base64 as events
    `binary`.  A peer that is too slow gets what the topic's policy says: "evict" ends the stream,
    and the peer comes back; "skip" tells gaps; "latest" passes over what is not the newest.

    A page of another site gets 403 unless `serve(origins=…)` lists it.  At capacity and in a drain
    a peer that asks for `text/event-stream` is told to come back.

    Args:
        encode: as for `Topic.subscribe`.
        retry: seconds after which a peer that has lost its stream comes back; by default a random
            number from 1 to 5, so that not all come back at once.
        history: as for `Topic.subscribe`, for peers that do not say how far they have the topic.
        peer: the key of the peer, as for `Topic.subscribe`; by default nobody's.
        resume: whether a peer that comes back gets what it missed.  Otherwise it is told a gap, and
            begins as others do.
        lifetime: seconds after which the stream ends, such as those for which a token is good, and
            the peer is told to come back; None for never.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """
    check_kind("event_stream", "request", request, Request)
    check_kind("event_stream", "topic", topic, Topic)
    if encode is not None:
        check_sync("event_stream", "encode(publication)", encode)
    check_kind("event_stream", "retry", retry, int, float, optional=True)
    if retry is not None and not 0 <= retry < 86_400:
        raise ValueError(f"event_stream: retry={retry!r} must be seconds from 0 to a day")
    check_kind("event_stream", "history", history, int)
    if history < 0:
        raise ValueError(f"event_stream: history={history!r} must not be negative")
    check_kind("event_stream", "peer", peer, str, optional=True)
    check_kind("event_stream", "resume", resume, bool)
    check_kind("event_stream", "lifetime", lifetime, int, float, optional=True)
    if lifetime is not None and not lifetime >= 0:
        raise ValueError(f"event_stream: lifetime={lifetime!r} must not be negative")
    given = request.headers.get("last-event-id") or request.query.get("last_event_id")
    since = _since(given) if resume else None
    place: _Place = {"since": since, "history": 0 if since else history}
    body = EventStream(
        topic,
        place,
        encode,
        retry=retry,
        peer=peer,
        remote=request.remote,
        has_lost=bool(given) and not resume,
        until=math.inf if lifetime is None else trio.current_time() + lifetime,
    )
    return Response(200, body, _HEADERS)


def _since(given: str | None) -> tuple[str, int] | None:
    if not given:
        return None
    match = re.fullmatch(_POSITION, given)
    return (match["epoch"], int(match["offset"])) if match else _NOWHERE


class EventStream(Streamed):
    """The body of such an answer."""

    def __init__(
        self,
        topic: Topic,
        place: _Place,
        encode: Encode | None,
        *,
        retry: float | None,
        peer: str | None,
        remote: Address,
        has_lost: bool,
        until: float,
    ) -> None:
        self._topic = topic
        self._place = place
        self._encode = encode
        self._retry = retry
        self._peer = peer
        self._remote = remote
        # Whether the peer was here before, and gets nothing of what it missed.
        self._has_lost = has_lost
        # When the stream ends, in Trio's time.
        self._until = until

    # An interrupt in the middle would cut a frame.
    @enable_ki_protection
    async def write(
        self,
        stream: trio.abc.Stream,
        head: bytes,
        presence: Presence,
        *,
        chunked: bool,
        limits: Limits,
        interval: float,
        stop: Stop,
        spawn: Spawn,
    ) -> None:
        """Write *head*, and events until the stream ends.

        Args:
            spawn: starts the task that writes what the wire does not take at once.
            interval: seconds of silence after which it is kept alive.

        Raises:
            HubFull: there is no room for the topic, or its broker does not say what there is of it;
                nothing was written.
            EOFError: the peer has gone.
            trio.TooSlowError: it does not read the end.
        """
        topic, place = self._topic, self._place
        with trio.move_on_after(limits.connect_timeout) as patience:
            await presence.during(lambda: topic.load(**place))
        if patience.cancelled_caught:
            raise HubFull("the broker does not answer")
        # It may begin a life, with an epoch of its own.
        topic._hub._use(topic)
        form = EventForm(topic.epoch, chunked)
        sink = EventSink(stream, form, spawn, limits, peer=self._peer, remote=self._remote)
        try:
            with topic.subscribe(sink, encode=self._encode, **place) as subscription:
                sink.queue.put(head + self._beginning(form, subscription))
                stop.watchers.add(sink.woken)
                await presence.during(
                    lambda: _follow(sink, subscription, interval, stop, self._until)
                )
            with trio.fail_after(limits.close_timeout):
                await sink.queue.wait_flushed()
        finally:
            stop.watchers.discard(sink.woken)
            # If it is still written to, that ends with the stream.
            sink.queue.break_off("the stream is over")
            sink.queue.disown()

    def _beginning(self, form: EventForm, subscription: Subscription) -> bytes:
        retry = new_random().uniform(*_RETRY_SECONDS) if self._retry is None else self._retry
        offset = subscription.cursor
        first = form.frame(retry_line(retry) + block(f"{form.epoch}:{offset}"))
        if subscription.recovered and not self._has_lost:
            return first
        return first + form.gap(offset, subscription.skipped)


async def _follow(
    sink: EventSink, subscription: Subscription, interval: float, stop: Stop, until: float
) -> None:
    """Keep the stream alive until it ends; in a soft stop, until it has caught up."""
    while not sink.woken.is_set():
        before = subscription.cursor
        with trio.move_on_at(min(trio.current_time() + interval, until)):
            await sink.woken.wait()
            break
        if trio.current_time() >= until:
            break
        if subscription.cursor == before and sink.queue.writable:
            sink.queue.put(sink.form.frame(_COMMENT))
    hub, head = subscription.topic._hub, subscription.topic.head
    while stop.has_begun and hub._is_owed(subscription, head):  # noqa: ASYNC110 - see `_drain`
        await trio.sleep(_LOOK_SECONDS)
    if sink.queue.is_open:
        seconds = new_random().uniform(*_COME_BACK_SECONDS)
        sink.queue.put(sink.form.frame(f"{retry_line(seconds)}\n") + sink.form.end)
