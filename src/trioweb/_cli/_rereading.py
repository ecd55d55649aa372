"""What a running server is told anew at SIGHUP: its configuration, and the files that this names.

NOTE: What cannot be read, or cannot be, changes nothing and is told; the rest is taken.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from ._settings import Settings, Used
from ._terminal import UsageError

_logger = logging.getLogger("trioweb")


class Part(NamedTuple):
    """What stands in files of its own.

    Attributes:
        what: its name.
        settings: the names of those that say where it stands.
        load: reads it, which may take a while, and raises `UsageError` if it is no good; what puts
            it in place then.
    """

    what: str
    settings: tuple[str, ...]
    load: Callable[[argparse.Namespace], Callable[[], None]]

    def is_given(self, options: argparse.Namespace) -> bool:
        """Whether there is a file of it."""
        return any(getattr(options, name) is not None for name in self.settings)


class Rereading:
    """What is read again, and what counts by now.

    Args:
        options: what counts so far.
        check: raises `UsageError` for options that cannot be together.
        parts: what they name.
        put: takes those settings that stand in no part.

    Attributes:
        options: what counts.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        *,
        check: Callable[[argparse.Namespace], None],
        parts: Sequence[Part],
        put: Callable[[argparse.Namespace], None],
    ) -> None:
        self.options = options
        self._check = check
        self._parts = parts
        self._put = put

    async def read_again(self) -> None:
        """Read everything again."""
        before = self.options
        settings: Settings = before.settings
        try:
            # In a thread, as below: files may be far away.
            options = await trio.to_thread.run_sync(settings.complete, before.arguments)
            self._check(options)
        except UsageError as exc:
            _logger.error("SIGHUP: %s; what was read before stays", exc)
        else:
            self._take(options)
        parts = [
            part for part in self._parts if part.is_given(before) or part.is_given(self.options)
        ]
        for part in parts:
            await self._read_part(part)
        if not parts and self.options.config is None:
            _logger.info("SIGHUP: there is nothing that could be read again")

    def _take(self, options: argparse.Namespace) -> None:
        """Let those of *options* count that a running server takes."""
        where = options.config
        if where is not None:
            _logger.info("SIGHUP: read again: --config %s", where)
        pairs = zip(self.options.used, options.used, strict=True)
        options.used = [self._keep(old, new, options) for old, new in pairs]
        self.options = options
        self._put(options)

    def _keep(self, old: Used, new: Used, options: argparse.Namespace) -> Used:
        """Which of both counts."""
        name = new.setting.name
        before, now = getattr(self.options, name), getattr(options, name)
        if now == before:
            return new
        if new.setting.is_rereadable:
            _logger.info("SIGHUP: %s; before: %s", new.line, old.line)
            return new
        _logger.warning("SIGHUP: %s: takes a restart; until then: %s", new.line, old.line)
        setattr(options, name, before)
        return old

    async def _read_part(self, part: Part) -> None:
        try:
            put = await trio.to_thread.run_sync(part.load, self.options)
        except UsageError as exc:
            _logger.error("SIGHUP: %s; what was read before stays", exc)
        else:
            put()
            _logger.info("SIGHUP: read again: %s", part.what)
