"""How arguments are read, and what all commands take."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's, without defaults that say no more than that nothing was given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def add_log_level(add: Any, default: str) -> None:
    add(
        "--log-level",
        default=default,
        choices=["debug", "info", "warning", "error"],
        help="what to log on standard error",
    )
