"""Fuzz for as long as one likes, led by coverage: `nox -s fuzz`, or `python -m tests.fuzz`.

Each target runs in a process of its own, which libFuzzer (in atheris) needs.  What it finds out
is kept in a corpus, from which the next run goes on; an input that makes a target fail is left in
a file `crash-…`, and `python -m tests.fuzz --again TARGET FILE` shows what it does.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 2048
# libFuzzer's own limits on a single input: what takes longer, or more, is a finding, too.
_MAX_SECONDS: Final = 10
_MAX_MIB: Final = 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which (all of them)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz"), help="where (%(default)s/)")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE"), help="run one input")
    parser.add_argument("--hunt", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hunt:
        return hunt(*options.hunt)
    # Not above: the hunting process imports it under atheris's eyes.
    from tests.fuzz.targets import TARGETS

    if options.again:
        name, path = options.again
        TARGETS[name].run(Path(path).read_bytes())
        return 0
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    found = 0
    for name in options.targets or TARGETS:
        corpus = options.corpus / name
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in TARGETS[name].seeds:
            (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        print(f"{name}: for {options.seconds} s, from {corpus}/", flush=True)
        before = set(options.corpus.glob("*-*"))
        command = (sys.executable, "-m", "tests.fuzz", "--hunt", name, str(options.seconds))
        status = subprocess.run((*command, str(corpus))).returncode
        for crash in sorted(set(options.corpus.glob("*-*")) - before):
            print(f"{name}: python -m tests.fuzz --again {name} {crash}")
        found += status != 0
    return min(found, 1)


def hunt(name: str, seconds: str, corpus: str) -> int:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["trioweb"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_BYTES}",
        f"-timeout={_MAX_SECONDS}",
        f"-rss_limit_mb={_MAX_MIB}",
        f"-artifact_prefix={Path(corpus).parent}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
        corpus,
    ]
    atheris.Setup(arguments, target.run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
