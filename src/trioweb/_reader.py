"""One task that reads for all connections of a server, or of a block of clients.

A task that waits for each socket is most of what an idle connection costs, and most of what
it costs to read a small message is to wake that task and to put it to sleep again.  Here one
task waits for an epoll object, and reads whatever became readable meanwhile.

NOTE: A link is read from here for as long as its state is OPEN; then it has itself unwatched,
before anything closes its transport.  So no descriptor is closed that is still watched.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from time import perf_counter
from typing import Final, NoReturn, Protocol

import trio

from ._close_codes import CloseCode
from ._link import END_OF_TRANSPORT, OPEN, Link, describe
from ._link._gone import has_gone
from ._logs import log

_logger = logging.getLogger("trioweb")

_EVENTS_PER_POLL: Final = 256
# After so long, others get their turn.
_TURN_SECONDS: Final = 0.001


class Paused(Protocol):
    """Something that is not read, and is told when its peer goes: a link in its pause, say."""

    def break_off(self, reason: str, /) -> None: ...

    def ended_in_pause(self) -> None: ...


class Reader:
    """Reads for links whose transport is a kernel socket.  A context manager; `run` is its task."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        # What is only looked after, and never read.
        self._others: dict[int, Paused] = {}
        # Links with a part of their last chunk still to decode, whose turn has come for that.
        self._unfinished: dict[Link, int] = {}
        # Wakes the task for those.
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._bell)

    def watch(self, link: Link, fileno: int) -> None:
        """Read for *link* from now on, or after its pause."""
        if link.incoming.is_undecoded:
            self._forget(fileno)
            self._unfinished[link] = fileno
            os.eventfd_write(self._bell, 1)
        else:
            self._await(select.EPOLLIN, link, fileno)

    def unwatch(self, link: Link, fileno: int) -> None:
        """Read for *link* no more."""
        self._unfinished.pop(link, None)
        self._forget(fileno)

    def watch_end(self, other: Paused, fileno: int) -> None:
        """Tell *other*, which nobody reads, when its peer goes; not if there is no room for it."""
        with suppress(OSError):
            self._epoll.register(fileno, select.EPOLLRDHUP)
            self._others[fileno] = other

    def unwatch_end(self, fileno: int) -> None:
        if self._others.pop(fileno, None) is not None:
            self._epoll.unregister(fileno)

    def _await(self, events: int, link: Link, fileno: int) -> None:
        try:
            if fileno in self._links:
                self._epoll.modify(fileno, events)
            else:
                self._epoll.register(fileno, events)
                self._links[fileno] = link
        except OSError as exc:
            link.abort(describe(exc, link))

    def _forget(self, fileno: int) -> None:
        if self._links.pop(fileno, None) is not None:
            self._epoll.unregister(fileno)

    async def run(self) -> NoReturn:
        """Read until cancelled; then close the links that nobody would read from any more."""
        try:
            await self._run()
        finally:
            for link in (*self._links.values(), *self._unfinished):
                link.close(CloseCode.GOING_AWAY)

    async def _run(self) -> NoReturn:
        while True:
            if self._unfinished:
                # Twice: whoever was woken by what was decoded runs between the two.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            began_at = perf_counter()
            now = trio.current_time()
            if self._unfinished:
                link = next(iter(self._unfinished))
                fileno = self._unfinished.pop(link)
                try:
                    self._go_on(link, fileno)
                except Exception as exc:
                    _contain(exc, link)
            for fileno, _ in self._epoll.poll(0, _EVENTS_PER_POLL):
                if perf_counter() - began_at > _TURN_SECONDS:
                    await trio.lowlevel.checkpoint()
                    began_at = perf_counter()
                    now = trio.current_time()
                # Others have run since the poll, so what stands there may be gone, or may be
                # another link that has nothing to read.
                if (ready := self._links.get(fileno)) is not None:
                    try:
                        self._read(ready, fileno, now)
                    except Exception as exc:
                        _contain(exc, ready)
                elif fileno == self._bell:
                    os.eventfd_read(self._bell)
                elif (other := self._others.get(fileno)) is not None:
                    self._look(other, fileno)

    def _go_on(self, link: Link, fileno: int) -> None:
        link.incoming.go_on()
        if link.state is OPEN:
            if link.carrier.pause_if_due():
                self._await(select.EPOLLRDHUP, link, fileno)
            else:
                self.watch(link, fileno)

    def _read(self, link: Link, fileno: int, now: float) -> None:
        if link.inbox.pause is not None:
            self._look(link, fileno)
            return
        # In all other states somebody else reads.
        if link.carrier.take(fileno, now) and link.state is OPEN:
            if link.carrier.pause_if_due():
                self._await(select.EPOLLRDHUP, link, fileno)
            elif link.incoming.is_undecoded:
                self._forget(fileno)
                self._unfinished[link] = fileno

    def _look(self, paused: Paused, fileno: int) -> None:
        """Look whether the peer of what is not read has gone."""
        # Asked anew, as what was polled may have been another's, see `_run`.
        match has_gone(fileno):
            case True:
                paused.break_off(END_OF_TRANSPORT)
            case None:
                self._epoll.modify(fileno, 0)
                paused.ended_in_pause()


def _contain(error: Exception, link: Link) -> None:
    """End *link* alone for the *error* that reading from it has raised, which no link should."""
    text = "unexpected error while reading for a connection"
    log(_logger, logging.ERROR, link, text, error=error)
    link.abort("internal error")


def open_reader() -> AbstractContextManager[Reader | None]:
    """A reader where the system can have one; without it every link reads for itself."""
    return closing(Reader()) if sys.platform == "linux" else nullcontext()
