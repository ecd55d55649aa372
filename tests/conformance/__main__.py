"""Run the Autobahn testsuite against trioweb and its peers, and write what came of it.

    python -m tests.conformance WSTEST DIRECTORY [--ours] [CASES …]

WSTEST is the suite's program; logs and the suite's own reports go to DIRECTORY.  `--ours` leaves
the peers out, and runs each case once; CASES, such as "5.*", are all that is run.  With either, the
page is printed instead of written.  The exit code is 1 if trioweb failed a case or lacks what it
asks for.
"""

from __future__ import annotations

import datetime
import platform
import shutil
import ssl
import sys
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .report import SECTIONS, faults, tables
from .suite import ROOT, Results, Run, make_certificates, run

PAGE: Final = ROOT / "docs" / "conformance.md"
# The slowest first, so that none of them is left for the end.
RUNS: Final = (
    Run("trio-websocket", "client"),
    Run("trioweb", "client", "TLS", repeats=3),
    Run("trioweb", "client", "plain", repeats=3),
    Run("trioweb", "client", "pieces"),
    Run("trioweb", "server", "pieces"),
    Run("trioweb", "server", "TLS"),
    Run("trioweb", "server", "plain"),
    Run("trio-websocket", "server"),
    Run("websockets", "client"),
    Run("websockets", "server"),
)
OURS: Final = tuple(replace(run, repeats=1) for run in RUNS if run.library == "trioweb")
# 8 and 11 do not exist.
_PLAIN: Final = tuple(f"{section}.*" for section in SECTIONS if section not in ("12", "13"))
# Of section 9 what is small: 16 MiB in pieces of 3 bytes would take an hour.
_PLAIN_SMALL: Final = (
    *(pattern for pattern in _PLAIN if pattern != "9.*"),
    *("9.1.1", "9.2.1", "9.7.1", "9.7.2", "9.7.3", "9.8.1", "9.8.2", "9.8.3"),
)
# Kinds of data (12) and of offers (13), each with 18 sizes of messages.
_COMPRESSED: Final = (
    *(f"12.{kind}" for kind in range(1, 6)),
    *(f"13.{kind}" for kind in range(1, 8)),
)
# 16, 64, 256 bytes, 1 and 4 KiB, and 8 KiB in fragments of 256 bytes.  All 18, up to 128 KiB, take
# twenty times as long, most of it the suite's own: ask for "12.*" and "13.*" by hand.
_SIZES: Final = (1, 2, 3, 4, 5, 11)
# In pieces, 16 bytes alone: a thousand messages of 256 bytes take 15 seconds there.
_SMALL_SIZES: Final = (1,)
# Most of the time goes into waiting for what must not come.
_AT_ONCE: Final = 3


def cases_of(run: Run) -> tuple[str, ...]:
    """The cases of *run*, unless others are asked for."""
    small = run.way == "pieces"
    plain = _PLAIN_SMALL if small else _PLAIN
    if run.library == "trio-websocket":
        return plain  # it does not compress
    sizes = _SMALL_SIZES if small else _SIZES
    return (*plain, *(f"{kind}.{size}" for kind in _COMPRESSED for size in sizes))


def main(wstest: str, where: str, *asked: str) -> int:
    cases = tuple(each for each in asked if each != "--ours")
    runs = OURS if "--ours" in asked else RUNS
    directory = Path(where).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    make_certificates(directory)

    def timed(one: Run) -> Results:
        own = directory / str(one).replace(", ", "-").replace(" ", "-")
        own.mkdir()
        started = time.monotonic()
        results = run(one, wstest, cases or cases_of(one), own)
        print(f"{one}: {len(results)} cases, {time.monotonic() - started:.0f} s", flush=True)
        return results

    started = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(runs, pool.map(timed, runs), strict=True))
    outcome = {one: found[one] for one in sorted(runs, key=_place)}
    page = _page(tables(outcome), time.monotonic() - started)
    if asked:
        print(page)
    else:
        PAGE.write_text(page)
    wrong = list(faults(outcome))
    print("\n".join(wrong) or "Nothing failed.")
    return 1 if wrong else 0


def _place(run: Run) -> tuple[bool, str, bool]:
    """By which the runs are ordered on the page: ours first."""
    return run.library != "trioweb", run.library, run.side == "client"


def _page(tables: str, seconds: float) -> str:
    pins = (Path(__file__).parent / "requirements.txt").read_text().splitlines()
    suite = next(pin for pin in pins if pin.startswith("autobahntestsuite==")).replace("==", " ")
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("trioweb", "trio", "trio-websocket", "websockets")
    )
    paragraphs = (
        "What the [Autobahn testsuite](https://github.com/crossbario/autobahn-testsuite) says of "
        "trioweb, and of two peers in the same run. Written by `nox -s conformance` on "
        f"{datetime.date.today()}, in {seconds / 60:.0f} minutes: {suite}, {libraries}, "
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}.",
        "Of each kind of case of 12 and 13, which have 1,000 messages each, some sizes are run, up "
        "to 8 KiB; the others would take 12 to 20 minutes for each column here. trio-websocket "
        "does not compress.",
        '"Pieces" is behind a proxy that cuts the bytes, both ways, into pieces of 1 to 5; of '
        "sections 9, 12 and 13 it gets cases with small messages only, for the others would take "
        "hours that way. Of repeated cases the worst verdict counts. Every library has its "
        "heartbeat off and takes messages of 17 MiB. Where there is compression it is on, which "
        "only sections 12 and 13 ask for.",
    )
    text = "\n\n".join(
        textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
        for text in paragraphs
    )
    return f"# Conformance\n\n{text}\n\n{tables}\n"


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    if len(arguments) < 2:
        sys.exit(__doc__)
    sys.exit(main(*arguments))
