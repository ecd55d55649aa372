"""Where in a topic a subscription begins."""

from __future__ import annotations

from .._centrifuge import _schema as wire
from .._topics import Position


def beginning(
    received: Position | None, request: wire.SubscribeRequest, result: wire.SubscribeResult
) -> tuple[Position | None, bool]:
    """Behind which publication it begins, and whether nothing behind *received* is missing.

    What was missed comes with the reply or behind it, so a subscription that was recovered begins
    where it was asked to.  Positions are None in a topic without them.
    """
    has_position = result.positioned or result.recoverable
    here = Position(result.epoch, result.offset)
    recovered = request.recover and result.recovered
    if recovered:
        here = Position(result.epoch, request.offset)
    elif has_position and received == here:
        recovered = True
    return here if has_position else None, recovered
