"""A nursery behind a context manager, whose users do not know that there is one.

What comes out of such a block, whichever task failed first, is decided here and nowhere else.

- An interrupt (KeyboardInterrupt, SystemExit) comes out as itself.
- An exception of the block's own comes out unchanged.
- A background task's failure comes out as itself.  It is not replaced by what it led to: the
  block's cancellation, or a ConnectionClosed, since its connection ends with its tasks.

The first of these that there is comes out; an error that it displaces is logged.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from ._error_groups import leaves, without_cancelled
from ._errors import ConnectionClosed

_logger = logging.getLogger("trioweb")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Protected(Generic[_T]):
    """An async context manager whose two ends are not interrupted in the middle."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractAsyncContextManager[_T]) -> None:
        self._manager = manager

    @enable_ki_protection
    async def __aenter__(self) -> _T:
        return await self._manager.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)


def protected_block(
    function: Callable[_P, AsyncGenerator[_T]],
) -> Callable[_P, AbstractAsyncContextManager[_T]]:
    """As `asynccontextmanager`, but an interrupt does not strike in what *function* itself does.

    Trio delivers it to the main task instead, at its next checkpoint.  What runs in the block is
    interrupted as ever.  Without this an interrupt between two lines of `contextlib`'s leaves a
    nursery open.
    """
    make = asynccontextmanager(function)

    @wraps(function)
    def open_block(*args: _P.args, **kwargs: _P.kwargs) -> AbstractAsyncContextManager[_T]:
        return _Protected(make(*args, **kwargs))

    return open_block


class _HiddenNursery:
    """See `open_hidden_nursery`.

    A class, since the frame of a generator would be 0.6 KiB of each client that idles.
    """

    __slots__ = ("_manager", "_nursery")

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    @enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        nursery = self._nursery
        nursery.cancel_scope.cancel()
        raised: BaseException | None = None
        failure: BaseException | None = None
        context: BaseException | None = None
        failures: list[BaseException] = []
        own = error
        try:
            try:
                # Which knows which cancellation is its own.
                if not await self._manager.__aexit__(kind, error, traceback):
                    raised = error
            except BaseException as exc:
                raised = exc
            failures = _failures(raised, own)
            if own is not None and nursery.cancel_scope.cancelled_caught:
                own = without_cancelled(own)
            failure = _decide(own, failures)
            _log_displaced([own, *failures], failure)
            if failure is None or failure is error:
                return failure is None
            # A raise sets the context to the exception that the block was left by, which may be
            # the cancellation that *failure* has caused.
            context = failure.__context__
            try:
                raise failure
            finally:
                failure.__context__ = context
        finally:
            # Their tracebacks lead to this frame.
            del error, own, raised, failure, failures, context


def open_hidden_nursery() -> AbstractAsyncContextManager[trio.Nursery]:
    """Open a nursery that is cancelled at the end of the block.

    Raises:
        What came first of what went wrong, as the top of this module has it.
    """
    return _HiddenNursery()


def _failures(raised: BaseException | None, error: BaseException | None) -> list[BaseException]:
    """What came *raised* out of a nursery, besides its block's *error* and cancellations."""
    own = {id(leaf) for leaf in leaves(error)}
    return [
        leaf
        for leaf in leaves(raised)
        if id(leaf) not in own and not isinstance(leaf, trio.Cancelled)
    ]


def _decide(own: BaseException | None, failures: list[BaseException]) -> BaseException | None:
    """What comes out: of the block's *own* error and the *failures* of background tasks."""
    if not failures or any(_is_interrupt(leaf) for leaf in leaves(own)):
        return own
    for failure in failures:
        if _is_interrupt(failure):
            return failure
    if not all(isinstance(leaf, trio.Cancelled | ConnectionClosed) for leaf in leaves(own)):
        return own
    if len(failures) == 1:
        return failures[0]
    return BaseExceptionGroup("several background tasks failed", failures)


def _is_interrupt(error: BaseException) -> bool:
    return not isinstance(error, Exception | trio.Cancelled)


def _log_displaced(errors: list[BaseException | None], failure: BaseException | None) -> None:
    """Log those of *errors* that do not come out with *failure*, nor were led to by it."""
    out = {id(leaf) for leaf in leaves(failure)}
    for error in errors:
        for leaf in leaves(error):
            if (
                id(leaf) not in out
                and isinstance(leaf, Exception)
                and not isinstance(leaf, ConnectionClosed)
            ):
                _logger.error("an error that %r has displaced", failure, exc_info=leaf)
