"""What stands before a server in the wild: nginx, HAProxy and Caddy, as the page has them."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from tests.docs.support import DOCS, blocks, wait_listening
from tests.interop.servers.common import Certificates
from tests.processes import free_port, running

FRONTS: Final = ("nginx", "haproxy", "caddy")
# Those that end a connection on which nothing happens.
IMPATIENT: Final = ("nginx", "haproxy")
# What they need beside what the page shows: nginx its frame, and to say where it may write.  It is
# one process, as a worker would outlive a master that is killed.
_NGINX: Final = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
{site}
}}
"""
# Caddy gets no certificate for a test, and keeps what it keeps in a folder of the test's.
_CADDY: Final = """
{{
    admin off
    auto_https disable_redirects
    skip_install_trust
    storage file_system {directory}
}}
{site}
"""


def missing_for_fronts() -> str | None:
    """What the tests marked `front` lack here, if anything."""
    missing = [name for name in FRONTS if _find(name) is None]
    return f"there is no {' and no '.join(missing)} on the path" if missing else None


def _find(name: str) -> str | None:
    # Debian keeps them where only root's path leads.
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def configuration(name: str, certificates: Certificates, port: int, target: int) -> str:
    """What the page says, for these ports and this certificate."""
    [text] = blocks(DOCS / "deploying.md", name)
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "127.0.0.1:8000": f"127.0.0.1:{target}",
        "fullchain.pem": str(certificates.server),
        "privkey.pem": str(certificates.server),
        "/etc/haproxy/example.com.pem": str(certificates.server),
        "example.com {": f"https://localhost:{port} {{\n"
        f"    bind 127.0.0.1\n    tls {certificates.server} {certificates.server}",
    }.items():
        text = text.replace(old, new)
    assert str(port) in text
    assert str(target) in text
    assert str(certificates.server) in text
    return text


@asynccontextmanager
async def running_front(
    name: str,
    certificates: Certificates,
    target: int,
    directory: Path,
    *,
    after: str | None = None,
) -> AsyncGenerator[int]:
    """Run one before port *target*; its port.  *after* takes the place of each 60 seconds."""
    port = free_port()
    text = configuration(name, certificates, port, target)
    if after is not None:
        assert "60s" in text
        text = text.replace("60s", after)
    path = directory / f"{name}.conf"
    program = _find(name)
    assert program is not None
    if name == "nginx":
        path.write_text(_NGINX.format(directory=directory, site=text))
        command = [program, "-e", "stderr", "-p", str(directory), "-c", str(path)]
    elif name == "caddy":
        path.write_text(_CADDY.format(directory=directory, site=text))
        command = [program, "run", "--adapter", "caddyfile", "--config", str(path)]
    else:
        path.write_text(text)
        command = [program, "-db", "-f", str(path)]
    async with running(command, HOME=str(directory), XDG_CONFIG_HOME=str(directory)):
        await wait_listening(port)
        yield port


async def dial_from(address: str, port: int) -> trio.SocketStream:
    """Connect to *port* of 127.0.0.1, from another address of this machine."""
    sock = trio.socket.socket()
    try:
        await sock.bind((address, 0))
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def trusting(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.authority)
