"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_SETTINGS = """
[pytest]
trio_mode = true
filterwarnings = error
addopts = --strict-markers
"""


class Pytest:
    """Runs pytest on some source in an empty directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(
        self, source: str, *arguments: str, runner: tuple[str, ...] = ("-m", "pytest")
    ) -> subprocess.CompletedProcess[str]:
        (self._directory / "pytest.ini").write_text(_SETTINGS)
        (self._directory / "test_it.py").write_text(textwrap.dedent(source))
        return subprocess.run(
            [sys.executable, *runner, "-p", "no:cacheprovider", *arguments],
            cwd=self._directory,
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    return Pytest(tmp_path)


_FAILING = """
    async def test_it(network, autojump_clock):
        a, b = await network.connect("laptop", "server")
        await a.send_all(b"some bytes")
        assert network.seed == 4711, f"seed {network.seed}"
"""


def test_failure_prints_seed_trace_and_how_to_run_it_again(run_pytest: Pytest) -> None:
    failed = run_pytest(_FAILING)
    assert failed.returncode == 1
    again = re.search(r"run it again with: pytest '(.*)' --network-seed=(\d+)", failed.stdout)
    assert again
    assert again[1] == "test_it.py::test_it"
    assert f"seed {again[2]}" in failed.stdout
    assert re.search(r"laptop:\d+ > server:\d+ +send 10", failed.stdout)
    # The seed is the test's own, so it is the same in the next run.
    assert f"--network-seed={again[2]}" in run_pytest(_FAILING).stdout


def test_seed_and_length_of_the_trace_can_be_chosen(run_pytest: Pytest) -> None:
    assert run_pytest(_FAILING, "--network-seed=4711").returncode == 0
    failed = run_pytest(_FAILING, "--network-seed=5", "--network-trace=1")
    assert "--network-seed=5" in failed.stdout
    assert "(2 events before)" in failed.stdout
    assert "dial" not in failed.stdout.partition("run it again")[2]


def test_marker_sets_conditions_and_names_are_strict(run_pytest: Pytest) -> None:
    source = """
        import pytest, trio

        @pytest.mark.network_conditions(latency=2, seed=3)
        async def test_it(network, autojump_clock):
            assert network.seed == 3
            await network.connect("laptop", "server")
            assert trio.current_time() == 4
    """
    passed = run_pytest(source)
    assert passed.returncode == 0, passed.stdout
    assert "network_conditions(seed, latency" in run_pytest(source, "--markers").stdout


def test_fixture_can_have_another_name(run_pytest: Pytest) -> None:
    source = """
        import pytest
        from pytest_trioweb import network as wire

        @pytest.fixture
        def network():
            return "of somebody else"

        async def test_it(wire, network, autojump_clock):
            await wire.connect("laptop", "server")
            assert (wire.seed, network) == (5, "of somebody else")
    """
    passed = run_pytest(source, "--network-seed=5")
    assert passed.returncode == 0, passed.stdout
    failed = run_pytest(source, "--network-seed=6")
    assert "run it again with: pytest 'test_it.py::test_it' --network-seed=6" in failed.stdout
    assert "laptop:49152 > server:49152" in failed.stdout


def test_run_without_the_fixture_imports_the_plugin_and_nothing_else(
    run_pytest: Pytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        import sys

        def test_it():
            print("\\nmodules:", *sys.modules)
    """
    # Other plugins may import Trio, and so would hide that we do.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def imported(*arguments: str) -> set[str]:
        done = run_pytest(source, "-s", "-o", "filterwarnings=", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = re.findall("^modules: (.*)$", done.stdout, re.MULTILINE)
        return set(line.split())

    without = imported()
    assert "trio" not in without
    assert imported("-p", "pytest_trioweb") - without == {"pytest_trioweb"}


# Where hypothesis is installed, pytest-trio makes Trio deterministic by itself.
_WITHOUT_HYPOTHESIS = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hypothesis":
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
import pytest
sys.exit(pytest.main())
"""


def test_runs_are_the_same_each_time_without_hypothesis(run_pytest: Pytest) -> None:
    source = """
        import pytest, trio

        async def test_it(network, autojump_clock):
            with pytest.raises(ImportError):
                import hypothesis
            order = []

            async def note(name):
                order.append(name)

            async with trio.open_nursery() as nursery:
                for name in "abcdefgh":
                    nursery.start_soon(note, name)
            assert order == "?", "".join(order)
    """
    orders = []
    for _ in range(3):
        failed = run_pytest(source, "-p", "no:hypothesispytest", runner=("-c", _WITHOUT_HYPOTHESIS))
        orders += re.findall(r"AssertionError: ([a-h]{8})$", failed.stdout, re.MULTILINE)
    assert len(orders) == 3, failed.stdout + failed.stderr
    assert len(set(orders)) == 1
