"""What an error has to say that may be a group."""

from __future__ import annotations

import pytest
import trio

from trioweb._error_groups import single_cause, without_cancelled


def test_single_cause_unwraps_groups_that_have_but_one_thing_to_say() -> None:
    leaf = ValueError("leaf")
    assert single_cause(leaf) is leaf
    assert single_cause(ExceptionGroup("outer", [ExceptionGroup("inner", [leaf])])) is leaf
    assert single_cause(BaseExceptionGroup("outer", [KeyboardInterrupt()])).__class__ is (
        KeyboardInterrupt
    )
    pair = ExceptionGroup("pair", [leaf, leaf])
    assert single_cause(ExceptionGroup("outer", [pair])) is pair


async def test_without_cancelled_leaves_what_says_more() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled) as caught:
            await trio.lowlevel.checkpoint()
    cancelled, error = caught.value, ValueError("kept")
    assert without_cancelled(cancelled) is None
    assert without_cancelled(BaseExceptionGroup("all", [cancelled])) is None
    mixed = without_cancelled(BaseExceptionGroup("mixed", [cancelled, error]))
    assert isinstance(mixed, ExceptionGroup)
    assert mixed.exceptions == (error,)
    group = ExceptionGroup("group", [error])
    assert without_cancelled(group) is group
    assert without_cancelled(error) is error
