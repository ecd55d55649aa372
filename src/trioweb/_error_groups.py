"""What an error has to say that may be a group: a nursery makes one even of a single error."""

from __future__ import annotations

import trio

from ._close_codes import CloseCode


def without_cancelled(error: BaseException) -> BaseException | None:
    """*error* without what says no more than that it was cancelled; None if that is all."""
    if not isinstance(error, BaseExceptionGroup):
        return None if isinstance(error, trio.Cancelled) else error
    return error.split(trio.Cancelled)[1] if error.subgroup(trio.Cancelled) else error


def leaving_code(error: BaseException) -> CloseCode:
    """What a peer is told when *error* leaves the block of its connection: that this program
    goes, where that is all (a cancellation, Ctrl-C, `sys.exit`), or that it failed."""
    own = leaves(without_cancelled(error))
    is_going = not own or any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in own)
    return CloseCode.GOING_AWAY if is_going else CloseCode.INTERNAL_ERROR


def single_cause(error: BaseException) -> BaseException:
    """*error*, or what it says if it is a group that has but one thing to say."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def leaves(error: BaseException | None) -> list[BaseException]:
    """The errors that *error* is made of: those within a group, else itself; none of None."""
    if not isinstance(error, BaseExceptionGroup):
        return [] if error is None else [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]


def causes(error: Exception) -> list[Exception]:
    """What *error* has to say: its leaves, without cancellations and interrupts."""
    return [leaf for leaf in leaves(error) if isinstance(leaf, Exception)]


def is_os_error(error: Exception) -> bool:
    """Whether *error*, of a callable of the user's, says that the network failed, and no more."""
    return all(isinstance(cause, OSError) for cause in causes(error))
