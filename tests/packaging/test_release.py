"""What keeps a version from being released is told."""

from __future__ import annotations

import pytest

from tests.packaging.release import faults

URLS = {"Documentation": "https://docs.example"}
READY = """# Changelog

## [Unreleased]

## [1.2.0] - 2027-01-31

### Added

- Something.

## [1.1.0] - 2026-12-01
"""


def test_version_with_a_dated_section_is_ready() -> None:
    assert faults("1.2.0", READY, URLS) == []


@pytest.mark.parametrize(
    ("version", "changelog", "fault"),
    [
        ("1.2.0.dev0", READY, "version 1.2.0.dev0 in pyproject.toml is none of a release"),
        ("1.3.0", READY, "CHANGELOG.md has no section [1.3.0]"),
        ("1.1.0", READY, "CHANGELOG.md says nothing of [1.1.0]"),
        (
            "1.2.0",
            READY.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"),
            "CHANGELOG.md still has entries under [Unreleased]",
        ),
        (
            "1.2.0",
            READY.replace(" - 2027-01-31", ""),
            "CHANGELOG.md has no date behind [1.2.0]",
        ),
    ],
)
def test_fault_is_told(version: str, changelog: str, fault: str) -> None:
    assert fault in faults(version, changelog, URLS)


def test_project_that_nobody_finds_is_told() -> None:
    [fault] = faults("1.2.0", READY, {})
    assert "[project.urls]" in fault
