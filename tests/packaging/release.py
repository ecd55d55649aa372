"""What must hold before a release: `python -m tests.packaging.release VERSION`."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
# PEP 440, without what names no release (.dev, and local versions).
_RELEASE: Final = re.compile(r"\d+(\.\d+)+((a|b|rc)\d+)?(\.post\d+)?")


def faults(version: str, changelog: str, urls: Mapping[str, str]) -> list[str]:
    """What keeps this version from being released, in words."""
    found = []
    if not urls:
        # The README's own links lead nowhere on an index, see setup.py.
        found.append("pyproject.toml has no [project.urls], so that nobody finds the project")
    if not _RELEASE.fullmatch(version):
        found.append(f"version {version} in pyproject.toml is none of a release")
    sections = dict(re.findall(r"(?ms)^## \[(.+?)\](.*?)(?=^## |\Z)", changelog))
    if sections.get("Unreleased", "").strip():
        found.append("CHANGELOG.md still has entries under [Unreleased]")
    section = sections.get(version)
    if section is None:
        found.append(f"CHANGELOG.md has no section [{version}]")
    elif not re.match(r" - \d{4}-\d\d-\d\d\n", section):
        found.append(f"CHANGELOG.md has no date behind [{version}]")
    elif not re.search(r"^- ", section, re.MULTILINE):
        found.append(f"CHANGELOG.md says nothing of [{version}]")
    return found


if __name__ == "__main__":
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    told = faults(sys.argv[1], (_ROOT / "CHANGELOG.md").read_text(), project.get("urls", {}))
    for fault in told:
        print(fault, file=sys.stderr)
    sys.exit(bool(told))
