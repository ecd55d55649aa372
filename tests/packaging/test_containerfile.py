"""The Containerfile, followed without a container: its steps run in folders of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.docs.support import wait_listening
from tests.processes import ROOT, free_port, running

pytestmark = [pytest.mark.network, pytest.mark.slow]

# To fetch and to build what is installed.
PATIENCE = 240


class Step(NamedTuple):
    """A line of the file."""

    instruction: str
    text: str


def steps() -> list[Step]:
    text = (ROOT / "Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        Step(*line.split(maxsplit=1)) for line in lines if line.strip() and not line.startswith("#")
    ]


def follow(step: Step, source: Path, prefix: Path) -> None:
    """Do in *source* what the step does in the image, with *prefix* before what is in /opt."""
    if step == ("COPY", ". ."):
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, tracked.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
    elif step.instruction == "RUN":
        done = subprocess.run(
            ["sh", "-ec", step.text.replace("/opt/", f"{prefix}/")],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr


async def test_image_is_built_serves_and_is_healthy(tmp_path: Path) -> None:
    source, prefix = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    environment: dict[str, str] = {}
    found = steps()
    for step in found:
        follow(step, source, prefix)
        if step.instruction == "ENV":
            name, value = step.text.split("=", 1)
            environment[name] = value
    last = {step.instruction: step.text for step in found}
    [command] = re.findall(r"CMD (\[.*\])$", last["HEALTHCHECK"])
    port = free_port()
    environment["TRIOWEB_PORT"] = str(port)
    where = (("/opt/", f"{prefix}/"), (last["EXPOSE"], str(port)))

    def in_place(text: str) -> list[str]:
        for old, new in where:
            text = text.replace(old, new)
        words: list[str] = json.loads(text)
        return words

    entry, health = in_place(last["ENTRYPOINT"]), in_place(command)
    async with running(entry, **environment) as server:
        with trio.fail_after(PATIENCE):
            await wait_listening(port)
            # 0.0.0.0, as a port that is passed on comes from outside.
            assert (await server.output.next()).endswith(f"://0.0.0.0:{port}/")
            healthy = await trio.run_process(health, capture_stderr=True, env=dict(os.environ))
            assert healthy.returncode == 0
        server.process.terminate()
        assert await server.wait() == 0
    sick = await trio.run_process(health, capture_stderr=True, check=False)
    assert sick.returncode == 1


def test_image_runs_as_nobody_and_lists_the_files_that_are_no_part_of_it() -> None:
    found = {step.instruction: step.text for step in steps()}
    assert found["USER"] == "65534:65534"
    ignored = (ROOT / ".containerignore").read_text()
    assert ignored == (ROOT / ".dockerignore").read_text()
    assert ".git\n" in ignored
