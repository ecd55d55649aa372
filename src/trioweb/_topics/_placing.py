"""Placing: where in a topic somebody begins, and from when on that is known.

With a broker, what they begin with may have to come first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ._delivery import Members
from ._life import end
from ._position import Recovery, Since, find_start
from ._shape import Encode, Shape
from ._sink import Form
from ._subscription import ASIDE, READY, Subscription

if TYPE_CHECKING:
    from ._topic import Topic


def find(topic: Topic, since: Since | None, history: int) -> Recovery:
    """Where to start."""
    log = topic._log
    first = log.floor(trio.current_time())
    begin = 0 if topic._window is None else topic._window.begin
    return find_start(topic._epoch, first, log.head, since, history, begin)


def await_place(
    topic: Topic, who: object, since: Since | None, history: int, placed: Callable[[], None]
) -> None:
    """Call *placed* as soon as what it needs is here, mostly at once."""
    window = topic._window
    if window is None:
        placed()
    else:
        window.use()
        window.wait(who, since, history, placed)


def members_of(topic: Topic, encode: Encode | None, form: Form) -> Members:
    """Those who get the topic in one shape, which *encode* and *form* make."""
    members = topic._members.get((encode, form))
    if members is None:
        shape = Shape(topic._log, encode, form, topic._hub._retention.shapes)
        members = topic._members[encode, form] = Members(topic._log, shape, topic._hub._counts)
    return members


def place(topic: Topic, subscription: Subscription, since: Since | None, history: int) -> None:
    """Start to deliver to *subscription*."""
    start = find(topic, since, history)
    subscription.cursor = start.position.offset
    subscription.skipped = start.missing
    subscription.recovered = start.recovered
    if since is not None:
        counts = topic._hub._counts
        if start.recovered:
            counts.recovered += 1
        else:
            counts.gaps += 1
    if subscription._holder is not None and not start.recovered:
        # While it waited for its place, the topic has begun anew.
        end(topic, [subscription])
        return
    subscription._move(READY)
    # NOTE: Nothing is written here.  So what is sent to *connection* before the next await
    # stands in front of all that the topic has for it.
    if subscription.lag:
        subscription._move(ASIDE)
    if topic._window is not None:
        topic._news.changed()
