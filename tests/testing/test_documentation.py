"""The examples of the chapter on testing run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_CHAPTER = Path(__file__).parents[2] / "docs" / "testing.md"


def test_examples_of_the_chapter_run(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", _CHAPTER.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    (tmp_path / "test_examples.py").write_text("\n\n".join(examples))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
