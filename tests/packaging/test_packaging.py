"""The release check finds what it is for, in distributions made here of a few names."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.packaging.__main__ import check, check_all, main
from trioweb._protocol import _speedups

_MODULE = "trioweb/_protocol/_frames_c"


def wheel(folder: Path, tag: str, *names: str, told: str = "", description: str = "") -> Path:
    path = folder / f"trioweb-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "trioweb/__init__.py",
            "trioweb/py.typed",
            "trioweb/redis/_scripts/topic.lua",
            *names,
        ):
            archive.writestr(name, "")
        archive.writestr("trioweb-1.0.dist-info/METADATA", f"Name: trioweb\n\n{description}\n")
        archive.writestr("trioweb-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {told or tag}\n")
    return path


def sdist(folder: Path, *names: str) -> Path:
    path = folder / "trioweb-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"trioweb-1.0/{name}"))
    return path


_SOURCES = ("setup.py", "pyproject.toml", f"src/{_MODULE}.c")


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("cp311-abi3-manylinux_2_28_x86_64", [f"{_MODULE}.abi3.so"]),
        ("cp311-abi3-win_amd64", [f"{_MODULE}.pyd"]),
        ("cp314-cp314t-linux_x86_64", [f"{_MODULE}.cpython-314t-x86_64-linux-gnu.so"]),
        ("py3-none-any", []),
    ],
)
def test_wheel_that_is_what_its_name_says_is_right(
    tag: str, names: list[str], tmp_path: Path
) -> None:
    assert check(wheel(tmp_path, tag, *names)) is None


@pytest.mark.parametrize(
    ("tag", "names", "fault"),
    [
        ("cp311-abi3-linux_x86_64", [], "it should have trioweb/_protocol/_frames_c"),
        ("cp311-abi3-linux_x86_64", ["trioweb/other.abi3.so"], "and no other module"),
        (
            "cp311-abi3-linux_x86_64",
            [f"{_MODULE}.abi3.so", "trioweb/other.so"],
            "and no other module",
        ),
        (
            "cp311-abi3-linux_x86_64",
            [f"{_MODULE}.cpython-311-x86_64-linux-gnu.so"],
            "is for one Python only",
        ),
        ("cp311-cp311-linux_x86_64", [f"{_MODULE}.abi3.so"], "must be cp311-abi3"),
        ("py3-none-any", [f"{_MODULE}.abi3.so"], "is for any platform, but has"),
        ("cp311-abi3-any", [], "for pure Python"),
        ("py3-none-any", [f"{_MODULE}.c"], "which no installation needs"),
    ],
)
def test_wheel_that_is_not_what_its_name_says_is_found(
    tag: str, names: list[str], fault: str, tmp_path: Path
) -> None:
    assert fault in (check(wheel(tmp_path, tag, *names)) or "")


def test_wheel_whose_metadata_says_something_else_is_found(tmp_path: Path) -> None:
    path = wheel(tmp_path, "py3-none-any", told="cp311-abi3-linux_x86_64")
    assert "differ by" in (check(path) or "")


@pytest.mark.parametrize(
    "text", ["see [the docs](docs/start.md)", '<img src="docs/pictures/chat.png">']
)
def test_wheel_whose_description_leads_to_files_is_found(text: str, tmp_path: Path) -> None:
    assert "leads to ['docs/" in (check(wheel(tmp_path, "py3-none-any", description=text)) or "")
    right = "[Trio](https://trio.readthedocs.io)"
    assert check(wheel(tmp_path, "py3-none-any", description=right)) is None


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (_SOURCES[:2], "_frames_c.c'] missing"),
        ((*_SOURCES, f"src/{_MODULE}.abi3.so"), "has ['src/trioweb"),
    ],
)
def test_sdist_has_the_source_and_nothing_built(
    names: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    assert fault in (check(sdist(tmp_path, *names)) or "")
    assert check(sdist(tmp_path, *_SOURCES)) is None


def test_release_wants_all_of_its_distributions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        wheel(tmp_path, "cp311-abi3-linux_x86_64", f"{_MODULE}.abi3.so"),
        wheel(tmp_path, "py3-none-any"),
        sdist(tmp_path, *_SOURCES),
    ]
    assert main(list(map(str, paths))) == 0
    for path in paths:
        rest = [other for other in paths if other != path]
        assert len(check_all(rest)) == 1
        assert main(list(map(str, rest))) == 1
    capsys.readouterr()
    assert main([str(tmp_path / "notes.txt"), *map(str, paths)]) == 1
    assert "notes.txt: neither a wheel nor an sdist" in capsys.readouterr().out


def test_installed_module_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--in-c"]) == (_speedups.LANGUAGE != "C")
    assert f"in {_speedups.LANGUAGE}" in capsys.readouterr().out


def test_extra_all_has_every_other() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.pop("all") == [f"trioweb[{','.join(sorted(extras))}]"]
