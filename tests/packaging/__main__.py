"""What is released is what its name says: `python -m tests.packaging dist/*`.

    trioweb-…-cp311-abi3-….whl    has the module in C, and nothing for another Python
    trioweb-…-py3-none-any.whl    has none
    trioweb-….tar.gz              has its source, and no module that was built

`--in-c` looks at the trioweb that is installed instead, and fails where its loops are in Python: a
build without a compiler ends well.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path
from typing import Final

_MODULE: Final = "trioweb/_protocol/_frames_c"
_RELATIVE: Final = re.compile(r'(?:\]\(|(?:src|srcset|href)=")(?!https?:)([^)"]+)')
_BUILT: Final = (".so", ".pyd", ".dylib", ".dll")


def _check_wheel(path: Path) -> str | None:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        [about] = [name for name in names if name.endswith(".dist-info/WHEEL")]
        metadata = Parser().parsestr(wheel.read(about).decode())
        told = wheel.read(about.removesuffix("WHEEL") + "METADATA").decode()
    python, abi, platform = path.stem.split("-")[-3:]
    tags = {f"{python}-{abi}-{part}" for part in platform.split(".")}
    if found := tags ^ set(metadata.get_all("Tag", [])):
        return f"its name and its metadata differ by {sorted(found)}"
    if links := _RELATIVE.findall(told):
        return f"its description leads to {sorted(set(links))}, which an index does not have"
    built = [name for name in names if name.endswith(_BUILT)]
    needed = {"trioweb/py.typed", "trioweb/__init__.py", "trioweb/redis/_scripts/topic.lua"}
    if missing := needed - set(names):
        return f"{sorted(missing)} missing"
    if sources := [name for name in names if name.endswith(".c")]:
        return f"has {sources}, which no installation needs"
    if platform == "any":
        if built:
            return f"is for any platform, but has {built}"
        return None if (python, abi) == ("py3", "none") else f"{python}-{abi} for pure Python"
    ours = [name for name in built if name.startswith(f"{_MODULE}.")]
    if len(ours) != 1 or ours != built:
        return f"is for {platform}, so it should have {_MODULE} and no other module, not {built}"
    if python.startswith("cp3") and abi == f"{python}t":
        return None  # free-threaded: no stable ABI
    if (python, abi) != ("cp311", "abi3"):
        return f"{python}-{abi}: must be cp311-abi3"
    if ".abi3." not in ours[0] and not ours[0].endswith(".pyd"):
        return f"{ours[0]} is for one Python only"
    return None


def _check_sdist(path: Path) -> str | None:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if missing := {f"src/{_MODULE}.c", "setup.py", "pyproject.toml"} - names:
        return f"{sorted(missing)} missing"
    if built := sorted(name for name in names if name.endswith((*_BUILT, ".pyc"))):
        return f"has {built}"
    return None


def check(path: Path) -> str | None:
    """Return what is wrong with a distribution, or None."""
    if path.name.endswith(".whl"):
        return _check_wheel(path)
    if path.name.endswith(".tar.gz"):
        return _check_sdist(path)
    return "neither a wheel nor an sdist"


def check_all(paths: Iterable[Path]) -> list[str]:
    """Return a line for each of a release's distributions that is wrong or missing."""
    found = list(paths)
    lines = [f"{path.name}: {fault}" for path in found if (fault := check(path))]
    for kind, pattern in {
        "wheel with the module in C": "*-cp311-abi3-*.whl",
        "wheel for the rest": "*-py3-none-any.whl",
        "sdist": "*.tar.gz",
    }.items():
        if not any(path.match(pattern) for path in found):
            lines.append(f"there is no {kind} ({pattern})")
    return lines


def main(arguments: list[str]) -> int:
    if arguments == ["--in-c"]:
        from trioweb._protocol import _speedups

        print(f"{_speedups.__file__}: in {_speedups.LANGUAGE}")
        return int(_speedups.LANGUAGE != "C")
    faults = check_all(map(Path, arguments))
    print("\n".join(faults or ["each is what its name says"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
