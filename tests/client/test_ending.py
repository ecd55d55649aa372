"""How a client ends: the table, over every phase and event, and what is told when."""

from __future__ import annotations

import itertools

import pytest

from trioweb import ClosedLocally, GaveUp, Unsent
from trioweb._client._ending import TABLE, Ending, Event, Phase
from trioweb._policy import Message

_PHASES = list(Phase)
_EVENTS = list(Event)
_ALL = list(itertools.product(_PHASES, _EVENTS))
_LAST = OSError("last")
_FAULT = KeyError("fault")


class _Outbox:
    """An outbox that holds so much."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages

    @property
    def unsent(self) -> int:
        return len(self.messages)

    def unsent_messages(self) -> tuple[Message, ...]:
        return self.messages


def bring(ending: Ending, event: Event) -> bool:
    match event:
        case Event.GIVE_UP:
            return ending.give_up(3, _LAST)
        case Event.FAIL:
            return ending.fail(_FAULT)
        case _:
            return ending.take(event)


_WAYS: dict[Phase, tuple[Event, ...]] = {
    Phase.OPEN: (),
    Phase.CLOSING: (Event.CLOSE,),
    Phase.CLOSED: (Event.CLOSE, Event.OVER),
    Phase.GAVE_UP: (Event.GIVE_UP,),
    Phase.FAILED: (Event.FAIL,),
}


def ended(phase: Phase, *messages: Message) -> Ending:
    """An ending in *phase*, with *messages* unsent."""
    ending = Ending(_Outbox(*messages))
    for event in _WAYS[phase]:
        bring(ending, event)
    assert ending.phase is phase
    return ending


@pytest.mark.parametrize(("phase", "event"), _ALL)
def test_table_leads_on_until_the_client_is_over(phase: Phase, event: Event) -> None:
    ending = ended(phase)
    has_ended = bring(ending, event)
    assert ending.phase is TABLE.get((phase, event), phase)
    assert has_ended == (ending.phase.is_over and not phase.is_over)
    # What is over stays as it is, and each event but CLOSE ends what is not.
    assert ((phase, event) in TABLE) == (not phase.is_over)
    assert ending.phase.is_over == (phase.is_over or event is not Event.CLOSE)


@pytest.mark.parametrize(("phase", "event"), _ALL)
@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("messages", [(), ("a", b"b")])
def test_each_end_is_told_once(
    phase: Phase, event: Event, is_told: bool, messages: tuple[Message, ...]
) -> None:
    """Whatever led to it: GaveUp if nobody has heard of it, and the messages in either case."""
    ending = ended(phase, *messages)
    bring(ending, event)
    if not ending.phase.is_over:
        return
    if is_told:
        error = ending.error()
        assert isinstance(error, GaveUp) == (ending.phase is Phase.GAVE_UP)
    owed = ending.owed()
    if ending.phase is Phase.GAVE_UP and not is_told:
        assert isinstance(owed, GaveUp)
        assert (owed.attempts, owed.last, owed.unsent) == (3, _LAST, messages)
    elif messages:
        assert isinstance(owed, Unsent)
        assert owed.messages == messages
    else:
        assert owed is None
    assert ending.owed() is ending.tell_unsent() is None


def test_error_says_whose_doing_it_was() -> None:
    assert "being closed" in str(ended(Phase.CLOSING).error())
    for phase in (Phase.CLOSED, Phase.FAILED):
        error = ended(phase).error()
        assert isinstance(error, ClosedLocally) and "was closed" in str(error)
        assert error.__cause__ is (_FAULT if phase is Phase.FAILED else None)
    assert ended(Phase.GAVE_UP).error().__cause__ is _LAST


@pytest.mark.parametrize("first", [None, Event.CLOSE])
def test_unsent_has_giving_up_as_its_cause_even_if_it_was_being_closed(
    first: Event | None,
) -> None:
    ending = Ending(_Outbox("a"))
    if first is not None:
        ending.take(first)
    ending.give_up(3, _LAST)
    unsent = ending.tell_unsent()
    assert unsent is not None and isinstance(unsent.__cause__, GaveUp)
    assert unsent.__cause__.last is _LAST


def test_unsent_tells_of_giving_up_too() -> None:
    """As its cause; so leaving the block has nothing to add."""
    ending = ended(Phase.GAVE_UP, "a")
    assert isinstance(ending.tell_unsent(), Unsent)
    assert ending.owed() is None


@pytest.mark.parametrize("late", [Event.GIVE_UP, Event.FAIL])
def test_what_comes_after_the_end_is_no_cause_of_it(late: Event) -> None:
    ending = ended(Phase.CLOSED, "a")
    assert not bring(ending, late)
    assert ending.error().__cause__ is None
    unsent = ending.tell_unsent()
    assert unsent is not None and unsent.__cause__ is None


@pytest.mark.parametrize("phase", _PHASES)
def test_iterating_ends_quietly_unless_the_client_gave_up(phase: Phase) -> None:
    assert ended(phase).is_quiet == (phase is not Phase.GAVE_UP)
