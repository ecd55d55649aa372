"""Other people's proxies, each a process: tinyproxy for HTTP's CONNECT, microsocks for SOCKS5."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from tests.processes import PATIENCE, free_port, reach, running

USER: Final = "ada"
PASSWORD: Final = "s3cret"
# By the program's name: the schemes of its URL.
PROXIES: Final = {"tinyproxy": ("http",), "microsocks": ("socks5", "socks5h")}


def missing_for_proxies() -> str | None:
    """What the tests marked `proxy` lack here, if anything."""
    missing = [name for name in PROXIES if shutil.which(name) is None]
    return f"there is no {' and no '.join(missing)} on the path" if missing else None


@asynccontextmanager
async def running_proxy(
    name: str, directory: Path, *, port: int | None = None, knows_us: bool = False
) -> AsyncGenerator[int]:
    """Run a proxy on 127.0.0.1; its port.  With *knows_us* it wants USER and PASSWORD."""
    port = port or free_port()
    if name == "tinyproxy":
        lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "LogLevel Error"]
        if knows_us:
            lines.append(f"BasicAuth {USER} {PASSWORD}")
        configuration = directory / f"tinyproxy-{port}.conf"
        configuration.write_text("\n".join([*lines, ""]))
        command = ["tinyproxy", "-d", "-c", str(configuration)]
    else:
        command = ["microsocks", "-i", "127.0.0.1", "-p", str(port)]
        if knows_us:
            command += ["-u", USER, "-P", PASSWORD]
    async with running(command):
        with trio.fail_after(PATIENCE):
            await reach(port)
        yield port
