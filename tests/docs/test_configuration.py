"""What the pages show of configuration is what the command takes and says."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tests.docs.support import DOCS, blocks
from trioweb._cli import _serve_options, main
from trioweb._cli._topics_file import read_topics
from trioweb._policy import Retain

PAGE = DOCS / "configuration.md"

pytestmark = pytest.mark.usefixtures("root_logger")


def test_file_of_the_page_is_taken(tmp_path: Path) -> None:
    [text] = blocks(PAGE, "toml")
    file = tmp_path / "trioweb.toml"
    file.write_text(text)
    parser = argparse.ArgumentParser()
    settings = _serve_options.add_options(parser)
    options = settings.complete(parser.parse_args(["--config", str(file)]), {})
    used = [each.setting.name for each in options.used if each.source == "file"]
    assert used == [name for name in vars(options) if re.search(rf"^{name} =", text, re.MULTILINE)]
    assert len(used) == len(text.splitlines())


def test_rules_of_the_page_of_commands_are_taken(tmp_path: Path) -> None:
    [text] = blocks(DOCS / "commands.md", "toml")
    file = tmp_path / "topics.toml"
    file.write_text(text)
    assert read_topics(str(file), Retain())["chat"].publish


def test_check_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [shown] = [block for block in blocks(PAGE, "console") if "TRIOWEB_HISTORY" in block]
    first, *expected = shown.splitlines()
    assert first == "$ TRIOWEB_HISTORY=50 trioweb serve --port 9000 --check"
    monkeypatch.setenv("TRIOWEB_HISTORY", "50")
    assert main(["serve", "--port", "9000", "--check"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in expected if line not in (*printed, "…")] == []


def test_complaint_is_the_one_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [shown] = [block for block in blocks(PAGE, "console") if "many" in block]
    monkeypatch.chdir(tmp_path)
    Path("trioweb.toml").write_text('history = "many"\n')
    assert main(["serve", "--config", "trioweb.toml", "--check"]) == 2
    assert capsys.readouterr().err == shown.splitlines(keepends=True)[1]
