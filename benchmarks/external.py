"""The servers that are not written in Python: started, fed with publications, and watched.

What publishes runs on the load's core, and the figures are the server's own process's, from
`/proc`. A publication reaches Node as a line of its standard input and nginx as an HTTP request,
which is part of what it costs.
"""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import NoReturn

from . import wire
from .jobs import BareJob, Job, private_bytes
from .task import Task

NODE_SERVER = Path(__file__).parent / "node_server.js"
# Where the distributions that we know of put it.
NCHAN_MODULES = [
    Path(folder, "ngx_nchan_module.so")
    for folder in (
        "/usr/lib/nginx/modules",
        "/usr/lib64/nginx/modules",
        "/usr/local/libexec/nginx",
        "/etc/nginx/modules",
    )
]
_NGINX_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
load_module {module};
{user}
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    server {{
        listen {host}:{port} backlog=1024;
        tcp_nodelay on;
        location = / {{
            nchan_subscriber websocket;
            nchan_channel_id news;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 20;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id news;
            nchan_message_buffer_length 1000;
        }}
    }}
}}
"""


class ExternalJob(BareJob):
    """Watches the process `pid` instead of this one."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.pid = 0
        self._started: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a server on the core of what is measured, and leave that core to it."""
        self._started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.task.scratch
        )
        os.sched_setaffinity(0, {self.task.load_core})
        self.pid = self._started.pid
        return self._started

    def connected_all(self) -> None:
        """Believe the load, which has seen every handshake."""
        self._connected = self.task.connections

    def _schedstat(self, field: int) -> float:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        nanoseconds = [(thread / "schedstat").read_text().split()[field] for thread in threads]
        return sum(map(int, nanoseconds)) / 1e9

    def cpu(self) -> float:
        return self._schedstat(0)

    def core_wait(self) -> float:
        return self._schedstat(1)

    def private_bytes(self) -> int:
        return private_bytes(self.pid)

    def finish(self, figures: dict[str, float]) -> NoReturn:
        if self._started:
            # By force: nobody's Close is to arrive, and no worker to be replaced.
            self._started.kill()
            os.kill(self.pid, signal.SIGKILL)
            self._started.wait()
        super().finish(figures)


async def serve_node(job: Job) -> None:
    assert isinstance(job, ExternalJob)
    node = job.start(["node", str(NODE_SERVER), job.task.to_json()])
    assert node.stdin and node.stdout
    stdin = node.stdin.fileno()
    job.listening(int(node.stdout.readline()))
    job.connected_all()

    async def publish(message: str) -> None:
        os.write(stdin, message.encode() + b"\n")

    await job.measure(publish)


def nchan_module() -> Path | None:
    """Return where nginx's module is, if nginx is here, too."""
    if shutil.which("nginx") is None:
        return None
    return next((path for path in NCHAN_MODULES if path.exists()), None)


def _configure_nginx(task: Task, port: int) -> str:
    configuration = Path(task.scratch, "nginx.conf")
    configuration.write_text(
        _NGINX_CONFIGURATION.format(
            module=nchan_module(),
            # Its worker must be able to use the directory that is ours.
            user="user root;" if os.geteuid() == 0 else "",
            host=wire.HOST,
            port=port,
        )
    )
    return str(configuration)


def _only_child(pid: int) -> int:
    """Return the process that a process has started, or 0."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text() or 0)


async def serve_nchan(job: Job) -> None:
    assert isinstance(job, ExternalJob)
    with socket.create_server((wire.HOST, 0)) as free:
        port = free.getsockname()[1]
    configuration = _configure_nginx(job.task, port)
    nginx = job.start(["nginx", "-p", job.task.scratch, "-c", configuration])
    publisher = None
    while publisher is None:
        if nginx.poll() is not None:
            raise ChildProcessError("nginx ended")
        try:
            publisher = socket.create_connection((wire.HOST, port))
        except ConnectionRefusedError:
            await job.sleep(0.01)
    publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while not (worker := _only_child(nginx.pid)):
        await job.sleep(0.01)
    job.pid = worker
    job.listening(port)
    job.connected_all()

    async def publish(message: str) -> None:
        data = message.encode()
        publisher.sendall(
            b"POST /publish HTTP/1.1\r\nHost: %b\r\nContent-Type: text/plain\r\n"
            b"Accept: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (wire.HOST.encode(), len(data), data)
        )
        _read_response(publisher)

    await job.measure(publish)


def _read_response(sock: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := sock.recv(65536)):
            raise ConnectionError("nginx closed the publisher's connection")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(None, 2)[1]
    if not status.startswith(b"20"):
        raise ConnectionError(f"nginx did not publish: {head!r}")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    while len(body) < int(length):
        body += sock.recv(65536)
