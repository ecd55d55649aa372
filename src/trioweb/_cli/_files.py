"""Files that options name, and what is wrong with them in words that say where."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ._terminal import UsageError


def read_text(option: str, path: str) -> str:
    """What is in the file at *path*, which *option* names.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    try:
        return Path(path).read_text("utf-8")
    except OSError as exc:
        raise UsageError(f"{option} {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path}: not UTF-8") from None


def read_toml(option: str, path: str) -> dict[str, Any]:
    """The same, as TOML has it; or it is none."""
    text = read_text(option, path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UsageError(f"{option} {path}: not TOML: {exc}") from None
