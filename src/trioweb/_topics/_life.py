"""A topic's life: how its log begins, goes on in another epoch, gives way, and ends.

Each life has a log of its own, so that whoever holds one can tell that its life is over.  (The
first that an engine tells of takes the log that the topic was made with, which has nothing yet.)
Whatever changes what is retained is told to the hub's retention, which keeps to the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ._delivery import COST_OF_CLOSE
from ._details import Details
from ._log import Log

if TYPE_CHECKING:
    from ._subscription import Subscription
    from ._topic import Topic


def begin(topic: Topic) -> None:
    """Begin a life, unless one is remembered that goes on."""
    topic._epoch, head = topic._hub._node.begin(topic)
    topic._log = Log(topic.retain, head)
    topic._forgotten = False
    topic._passed = head
    topic._look = False
    topic._late = []
    topic._is_spared = False
    topic._size_number = None


def forget(topic: Topic) -> None:
    """Drop the log.  The settings stay, until somebody asks for others."""
    topic._hub._retention.bury(topic)
    if topic._window is not None:
        topic._window.detach()
    topic._log = Log(topic.retain, topic._log.head)
    topic._forgotten = True
    topic._size_number = None
    topic._hub._pump.forget(topic)


def start_anew(topic: Topic, epoch: str, head: int, missing: int | None) -> None:
    """Go on in *epoch* with a log that begins behind *head*.

    Args:
        missing: how many publications are known to be missing to those who had all; None if
            this is the same epoch, in which all up to *head* are.
    """
    if topic._epoch:
        gone, count = topic._log.size, topic.retained
        topic._hub._retention.bury(topic)
        topic._log = Log(topic.retain, head)
        topic._hub._retention.resized(topic, -gone, -count)
    else:
        # Nothing was in it.  Thousands of new ones are work for Python's collector.
        topic._log.begin_behind(head)
    topic._epoch = epoch
    topic._passed = head
    topic._late.clear()
    topic._hub._pump.forget(topic)  # what is under way is about another log
    groups = tuple(topic._members.values())
    subscriptions: list[Subscription] = []
    for members in groups:
        members.rebase(topic._log)
        subscriptions += members.subscriptions
    ended: list[Subscription] = []
    for subscription in subscriptions:
        if subscription._slow == "evict" or subscription._holder is not None:
            ended.append(subscription)
        else:
            known = head - subscription.cursor if missing is None else missing
            subscription._go_to(head, known)
    for reader in topic._readers:
        reader._go_to(head, head - reader.cursor if missing is None else missing)
    topic._news.changed()
    end(topic, ended)


def end(topic: Topic, subscriptions: list[Subscription]) -> None:
    """End *subscriptions*, of which there may be very many, as their *topic* has begun anew."""
    for subscription in subscriptions:
        subscription.close()
    if subscriptions:
        topic._hub._pump.do_later(_tell_of_restart(subscriptions))


def _tell_of_restart(subscriptions: list[Subscription]) -> Iterator[int]:
    for subscription in subscriptions:
        subscription._tell_of_restart()
        yield COST_OF_CLOSE


def prepend(topic: Topic, older: Sequence[tuple[bytes, str | None, Details, float]]) -> None:
    """Have what is older in the log, too, the newest first."""
    log = topic._log
    size = log.size
    log.prepend(older)
    topic._hub._retention.resized(topic, log.size - size, len(older))


def trim(topic: Topic, first: int) -> None:
    """Drop what lies before *first*."""
    log = topic._log
    size, count = log.size, first - log.first
    if count > 0:
        log.trim(first)
        topic._hub._retention.resized(topic, log.size - size, -count)


def trim_bytes(topic: Topic, size: int, *, keep: int) -> int:
    """Drop so much of the log that *size* bytes are free, but not the newest *keep*
    publications; return how much was."""
    before = topic._log.size
    trim(topic, topic._log.first_without(size, keep))
    # Who needs what is gone is to be told.
    if topic._members:
        topic._look_again()
    return before - topic._log.size
