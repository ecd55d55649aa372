"""The table of docs/configuration.md: `python -m tests.docs.settings` writes it anew."""

from __future__ import annotations

import argparse
import re
from typing import Final

from tests.docs.support import DOCS
from trioweb._cli import _serve_options
from trioweb._cli._settings import Setting

PAGE: Final = DOCS / "configuration.md"
_TABLE: Final = re.compile(r"(?<=<!-- settings:begin -->\n).*?(?=<!-- settings:end -->)", re.DOTALL)


def told() -> str:
    """The table that stands in the page."""
    [table] = _TABLE.findall(PAGE.read_text())
    return str(table)


def table() -> str:
    """The table that should."""
    settings = _serve_options.add_options(argparse.ArgumentParser()).table
    rows = [
        "| in the file; in the environment | takes | otherwise | SIGHUP | |",
        "|---|---|---|---|---|",
        *map(_row, settings),
    ]
    return "\n".join([*rows, ""])


def _row(setting: Setting) -> str:
    has_default = setting.default not in (None, []) and not setting.is_flag
    otherwise = f"`{setting.default}`" if has_default else ""
    takes = setting.kind if setting.choices is None else " or ".join(setting.choices)
    again = "yes" if setting.is_rereadable else ""
    about = re.sub(r"(?<!\w)(--[a-z-]+|TRIOWEB_\w+|[a-z_]+ = \w+)", r"`\1`", setting.about)
    about = about.replace("|", "\\|").replace("<", "&lt;").replace("'*'", "`*`")
    cells = f"`{setting.name}` `{setting.variable}`", takes, otherwise, again, about
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(_TABLE.sub(lambda match: table(), PAGE.read_text()))
