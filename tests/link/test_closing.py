"""The table of ends: what it promises in each row, and that a link does what each row says."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest
import trio
import trio.testing

from tests.support import CLOSE, Frame, RawPeer, close_frame
from trioweb import (
    CloseCode,
    ClosedByPeer,
    ClosedLocally,
    ConnectionClosed,
    ConnectionLost,
    Limits,
    State,
)
from trioweb._errors import FrameError
from trioweb._link import Link
from trioweb._protocol._closing import STEPS, Cause, Event, Phase
from trioweb.testing import MemoryStream, stream_pair

PAIRS: Final = list(product(Phase, Event))
ORDER: Final = list(Phase)


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_each_event_has_its_step_in_each_phase(phase: Phase, event: Event) -> None:
    step = STEPS[phase, event]
    assert ORDER.index(step.phase) >= ORDER.index(phase), "an end does not come undone"
    assert (step.tells is not None) is (phase is Phase.OPEN), "told once, by the first event"
    assert not step.sends or phase is Phase.OPEN, "one Close at most (section 5.5.1)"
    assert (step.phase is Phase.CLOSED) is (phase is Phase.CLOSED or event is Event.LET_GO)
    if event is not Event.CLOSE:
        assert step.phase not in (Phase.OPEN, Phase.CLOSING), "nothing is awaited any more"


def test_nothing_else_stands_in_the_table() -> None:
    assert set(STEPS) == set(PAIRS)


# A link, seen from its far side.

_TO: Final = {
    Phase.OPEN: None,
    Phase.CLOSING: Event.CLOSE,
    Phase.DEAF: Event.FAULT,
    Phase.AGREED: Event.PEER_CLOSE,
    Phase.CLOSED: Event.LET_GO,
}
_CODES: Final = {Event.CLOSE: 4001, Event.PEER_CLOSE: 4002, Event.FAULT: 1009}
_ERRORS: Final[dict[Cause, type[ConnectionClosed]]] = {
    Cause.LOCAL: ClosedLocally,
    Cause.PEER: ClosedByPeer,
    Cause.LOSS: ConnectionLost,
}
_STATES: Final = {
    Phase.OPEN: State.OPEN,
    Phase.CLOSING: State.CLOSING,
    Phase.DEAF: State.CLOSING,
    Phase.AGREED: State.CLOSING,
    Phase.CLOSED: State.CLOSED,
}


async def cause(event: Event, link: Link, nursery: trio.Nursery) -> None:
    """Let *event* happen to *link*, whose transport stays as it is."""
    match event:
        case Event.CLOSE:
            link.close(_CODES[event], "ours")
        case Event.PEER_CLOSE:
            link.closed_by_peer(_CODES[event], "theirs")
        case Event.FAULT:
            link.fail(
                FrameError(CloseCode.MESSAGE_TOO_BIG, "too big", limit="Limits.max_message_bytes")
            )
        case Event.LOST:
            link.lost("gone")
        case Event.LET_GO:
            await link.queue.wait_flushed()
            nursery.cancel_scope.cancel()
            await link.wait_closed()


@pytest.mark.parametrize(("phase", "event"), PAIRS)
async def test_a_link_takes_the_step_that_the_table_has(
    phase: Phase, event: Event, nursery: trio.Nursery
) -> None:
    near: MemoryStream
    near, far = stream_pair()
    peer = RawPeer(far, is_client=True)
    async with trio.open_nursery() as tasks:
        link = Link(near, b"", is_client=False, limits=Limits(), spawn=tasks.start_soon)
        # Where the transport is to be let go, it has to be carried.
        if Event.LET_GO in (_TO[phase], event):
            link.carrier.start()
            await trio.testing.wait_all_tasks_blocked()
        before = _TO[phase]
        if before is not None:
            await cause(before, link, tasks)
        with trio.CancelScope(shield=True):
            was = None if link.state is State.OPEN else (link.close_code, link.close_reason)
            kind = type(link.error())
            await cause(event, link, tasks)
            step = STEPS[phase, event]
            assert link.state is _STATES[step.phase]
            if event is not Event.LET_GO:
                if step.tells is None:
                    assert (link.close_code, link.close_reason) == was
                    assert type(link.error()) is kind
                else:
                    assert link.close_code == _CODES.get(event, 1006)
                    assert type(link.error()) is _ERRORS[step.tells]
            # Cancelled while OPEN, it goes away in good manners (1001): two events, one Close.
            first = event if phase is Phase.OPEN else _TO[phase]
            assert first is not None
            code = _CODES.get(first, 1001 if first is Event.LET_GO else None)
            await link.queue.wait_flushed()
            await trio.aclose_forcefully(near)
            sent = [frame for frame in await peer.frames() if frame.opcode == CLOSE]
            reason = {Event.CLOSE: "ours", Event.FAULT: "too big"}.get(first, "")
            expected: list[Frame] = [] if code is None else [close_frame(code, reason)]
            assert sent == expected or (first is Event.LET_GO and sent == [])
        tasks.cancel_scope.cancel()
