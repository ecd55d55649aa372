"""The Autobahn testsuite, run once against one program: processes, ports, its reports.

Knows nothing of what the verdicts mean to us; `report` does.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import trustme

ROOT: Final = Path(__file__).parents[2]
_START_SECONDS: Final = 30
# A run takes minutes, with all of sections 12 and 13, three times, 40; a hanging one must not
# take the day.
_RUN_SECONDS: Final = 3600

Verdict: TypeAlias = Literal["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED"]
# Worst last.
VERDICTS: Final[tuple[Verdict, ...]] = (
    "OK",
    "INFORMATIONAL",
    "NON-STRICT",
    "UNIMPLEMENTED",
    "FAILED",
)


@dataclass(frozen=True)
class Run:
    """The suite against one program: which, and over what.

    Args:
        library: see `echo`.
        side: what the program is.
        way: "pieces" is behind the proxy that cuts the bytes into pieces.
        repeats: how often a client runs all cases.
    """

    library: str
    side: Literal["server", "client"]
    way: Literal["plain", "TLS", "pieces"] = "plain"
    repeats: int = 1

    def __str__(self) -> str:
        times = f", {self.repeats} times" if self.repeats > 1 else ""
        return f"{self.library} {self.side}, {self.way}{times}"


@dataclass(frozen=True)
class Result:
    """What the suite says of one case."""

    verdict: Verdict
    text: str


# By case, the results of all repeats.
Results = dict[str, list[Result]]


def make_certificates(directory: Path) -> None:
    """Write what the programs and the suite need for TLS on 127.0.0.1."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "authority.pem")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")


def run(run: Run, wstest: str, cases: Sequence[str], directory: Path) -> Results:
    """Run *cases* of the suite; everything that is written goes to *directory*.

    Args:
        wstest: the suite's program.
        cases: patterns, as the suite has them: "9.*".
        directory: empty, but for what `make_certificates` has put into its parent.
    """
    secure = run.way == "TLS"
    scheme = "wss" if secure else "ws"
    certificates = str(directory.parent) if secure else "-"
    echo = [sys.executable, "-m", "tests.conformance.echo", run.library]
    specification = directory / "specification.json"
    suite = [wstest, "--webport=0", f"--spec={specification}", "--mode"]
    port = _free_port()
    with ExitStack() as stack:
        log = stack.enter_context((directory / "log").open("w"))
        seen = port
        if run.way == "pieces":
            seen = _free_port()
            proxy = [sys.executable, "-m", "tests.conformance.proxy", str(seen), str(port)]
            stack.enter_context(_process(proxy, log))
            _wait_for(seen)
        asked: dict[str, Any] = {"cases": list(cases), "outdir": str(directory / "reports")}
        if run.side == "server":
            server = [*echo, "serve", str(port), certificates]
            client = [*suite, "fuzzingclient"]
            asked["servers"] = [{"agent": "1", "url": f"{scheme}://127.0.0.1:{seen}"}]
        else:
            server = [*suite, "fuzzingserver"]
            asked["url"] = f"{scheme}://127.0.0.1:{port}"
            client = [*echo, "run", asked["url"], str(run.repeats), certificates]
            if seen != port:
                client.append(str(seen))
            if secure:
                asked["key"] = str(directory.parent / "server.key")
                asked["cert"] = str(directory.parent / "server.pem")
        specification.write_text(json.dumps(asked))
        stack.enter_context(_process(server, log))
        _wait_for(port)
        subprocess.run(client, cwd=ROOT, stdout=log, stderr=log, timeout=_RUN_SECONDS, check=True)
    return _read(directory / "reports")


def _read(reports: Path) -> Results:
    results: Results = {}
    index = json.loads((reports / "index.json").read_text())
    for cases in index.values():
        for case, entry in cases.items():
            told = json.loads((reports / entry["reportfile"]).read_text())
            verdict = max(
                _verdict(entry["behavior"]), _verdict(entry["behaviorClose"]), key=VERDICTS.index
            )
            texts = dict.fromkeys((told["result"], told["resultClose"]))
            results.setdefault(case, []).append(Result(verdict, "; ".join(texts)))
    return results


def _verdict(behaviour: str) -> Verdict:
    # The suite has more words for failures of the closing handshake.
    return next((verdict for verdict in VERDICTS if verdict == behaviour), "FAILED")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def _process(command: Sequence[str], log: Any) -> Iterator[None]:
    """Run *command* for the length of the block."""
    with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.kill()
