"""`trioweb connect --topic NAME`: a topic of a topic server, in a terminal or a pipe.

Lines from standard input are published, and publications go to standard output.  The client comes
back by itself and recovers; what cannot be recovered is told, and so is how far it came.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from .._close_codes import CloseCode
from .._connection import Connection
from .._error_groups import single_cause
from .._errors import ClosedLocally, Gap, TriowebError
from .._observer import Observer
from ._input import Input
from ._report import Json, Report, Words
from ._terminal import UsageError, stop_on_signal

if TYPE_CHECKING:
    from .._topic_client import TopicClient
    from .._topic_client._items import Item
    from .._topic_client._subscription import TopicSubscription

_LAST_WORDS_SECONDS: Final = 5
# Attempts and ends that wait to be told; of more the oldest are of no interest.
_MOST_TOLD: Final = 16


_LEAVING: Final = (CloseCode.NORMAL, CloseCode.INTERNAL_ERROR)


class _Ends(Observer):
    """Why there is no connection, for a task that tells it."""

    def __init__(self) -> None:
        self._send, self.errors = trio.open_memory_channel[Exception](_MOST_TOLD)

    def on_end(self, connection: Connection) -> None:
        error = connection.link.error()
        # With these this program leaves, in peace or because of what it tells anyway.
        if not (isinstance(error, ClosedLocally) and error.code in _LEAVING):
            self._add(error)

    def on_failure(self, error: Exception, attempts: int) -> None:
        self._add(error)

    def _add(self, error: Exception) -> None:
        with suppress(trio.WouldBlock):
            self._send.send_nowait(error)


async def follow(options: argparse.Namespace, given: dict[str, Any]) -> int:
    """Run the command; return the exit code.

    Args:
        given: what `open_topic_client` is given of the options.

    Raises:
        UsageError, ImportError: it cannot be.
    """
    for option in "binary", "confirm":
        if getattr(options, option):
            raise UsageError(f"--topic publishes text, and confirms it: --{option} is not for that")
    if not options.topic:
        raise UsageError("--topic: a topic has a name")
    from .._topic_client import open_topic_client

    report: Report = Json() if options.json else Words(raw=False)
    ends = _Ends()
    given["subprotocols"] = options.subprotocol or ["centrifuge-json"]
    code = 0
    refusal: TriowebError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        nursery.start_soon(_tell_ends, ends, report)
        async with open_topic_client(
            **given, token=os.environ.get("TRIOWEB_TOKEN"), observer=ends
        ) as client:
            # NOTE: caught inside this block, which would otherwise tell the server that something
            # has gone wrong here (1011), where it was the server that said no.
            try:
                code = await _talk(client, options, report, nursery.cancel_scope)
            except (TriowebError, ExceptionGroup) as exc:
                cause = single_cause(exc)
                if not isinstance(cause, TriowebError):
                    raise
                refusal = cause
        nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    return code


async def _talk(
    client: TopicClient, options: argparse.Namespace, report: Report, scope: trio.CancelScope
) -> int:
    """Publish what is typed and show what comes, until the input ends, and tell where that was.

    Args:
        scope: is cancelled when whoever reads the output has enough.

    Returns:
        The exit code: 2 if a line cannot be sent; those before it are.
    """
    source = Input(sys.stdin.fileno(), sys.stdin.encoding, options.max_message_bytes)
    subscription: TopicSubscription[Item] | None = None
    code = 0
    try:
        async with trio.open_nursery() as showing:
            async with client.subscription(
                options.topic, since=options.since, events=True
            ) as subscription:
                showing.start_soon(_show, subscription, report, scope)
                try:
                    while (line := await source.peek()) is not None:
                        await client.publish(options.topic, line)
                        source.take()
                except UsageError as exc:
                    await report.failed(exc, 0)
                    code = 2
                if not code:
                    await trio.sleep(options.linger)
            # What had arrived is shown, as long as somebody reads it.
            showing.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_SECONDS
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_WORDS_SECONDS):
            if subscription is not None and subscription.position is not None:
                with suppress(OSError):
                    await report.position(subscription.position)
    return code


async def _show(
    subscription: TopicSubscription[Item], report: Report, scope: trio.CancelScope
) -> None:
    """Show what comes, until the subscription is over or whoever reads the output has enough."""
    from .._topic_client._items import Subscribed, TopicPublication

    with suppress(BrokenPipeError):
        async for item in subscription:
            match item:
                case TopicPublication():
                    await report.publication(item.data, subscription.position)
                case Subscribed(recovered=recovered):
                    await report.subscribed(recovered=recovered)
                case Gap():
                    await report.gap(item)
        return
    scope.cancel()


async def _tell_ends(ends: _Ends, report: Report) -> None:
    async for error in ends.errors:
        await report.lost(error)
