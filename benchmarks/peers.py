"""The peers: what each needs, whether it is here, its version, and its colour in every picture.

It imports none of them.
"""

import functools
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass

from .external import nchan_module

OURS = "trioweb"
FLOOR = "floor"
FLOOR_AT_ONCE = "floor in bursts"
BARE_TRIO = "bare Trio"


@dataclass(frozen=True)
class Peer:
    """One of those that are compared.

    Args:
        packages: what it needs of Python's.
        colour: in every picture.
        programs: what it needs besides, by the name under which its version is reported.
    """

    packages: tuple[str, ...]
    colour: str
    programs: tuple[str, ...] = ()


PEERS = {
    OURS: Peer((OURS, "trio"), "#d62728"),
    FLOOR: Peer((), "#7f7f7f"),
    FLOOR_AT_ONCE: Peer((), "#c7c7c7"),
    BARE_TRIO: Peer(("trio",), "#4d4d4d"),
    "trio-websocket": Peer(("trio-websocket",), "#1f77b4"),
    "websockets": Peer(("websockets",), "#2ca02c"),
    "websockets (Trio)": Peer(("websockets",), "#98df8a"),
    "aiohttp": Peer(("aiohttp",), "#e6a800"),
    "aiohttp+uvloop": Peer(("aiohttp", "uvloop"), "#8c6200"),
    "picows": Peer(("picows",), "#c08ad9"),
    "picows+uvloop": Peer(("picows", "uvloop"), "#7b3fa0"),
    "Node ws": Peer((), "#17becf", ("Node", "ws")),
    "nginx nchan": Peer((), "#111111", ("nginx", "nchan")),
}


def _output(*command: str) -> str | None:
    """Return what a program prints, or None if it is not here or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else None


@functools.cache
def version(name: str) -> str | None:
    """Return the version of an installed package or program, or None if it is not here."""
    match name:
        case "Node":
            return _output("node", "--version")
        case "ws":
            return _output("node", "-p", 'require("ws/package.json").version')
        case "nginx":
            found = re.search(r"nginx/(\S+)", _output("nginx", "-v") or "")
            return found and found[1]
        case "nchan":
            # Only a distribution's package knows it.
            known = _output("dpkg-query", "-W", "-f=${Version}", "libnginx-mod-nchan")
            return (known or "version unknown") if nchan_module() else None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "from the source tree" if importlib.util.find_spec(name) else None


def missing(peer: str) -> list[str]:
    """Return what the peer needs and is not here."""
    needs = PEERS[peer]
    return [name for name in (*needs.packages, *needs.programs) if version(name) is None]


def versions(names: list[str]) -> dict[str, str]:
    """Return the versions of all that some peers need."""
    needs = dict.fromkeys(
        need for name in names for need in (*PEERS[name].packages, *PEERS[name].programs)
    )
    return {need: found for need in needs if (found := version(need))}
