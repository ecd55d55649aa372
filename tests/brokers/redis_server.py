"""A redis-server of a test's own, which can be stopped, killed and started again, for real.

All of this blocks: what is done to a server is done when the method returns.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis

_SECONDS = 20
# Does to each topic what a failover does to those who were ahead of the replica.
_LOSE = """
for _, record in ipairs(redis.call('KEYS', '*:m')) do
    local topic = string.sub(record, 1, -3)
    for _, entry in ipairs(redis.call('XREVRANGE', topic .. ':s', '+', '-', 'COUNT', ARGV[1])) do
        redis.call('XDEL', topic .. ':s', entry[1])
        redis.call('HINCRBY', record, 's', -1)
        redis.call('HSET', record, 'b', entry[2][2])
        local node, number = string.match(entry[2][6], '^(.*):(%d+)$')
        redis.call('SET', topic .. ':n:' .. node, (number - 1) .. ':0')
    end
    -- The stream itself would not take the offsets again.
    local left = redis.call('XRANGE', topic .. ':s', '-', '+')
    redis.call('DEL', topic .. ':s')
    for _, entry in ipairs(left) do
        redis.call('XADD', topic .. ':s', entry[1], unpack(entry[2]))
    end
end
"""


class RedisServer:
    """A server on a port of its own, that keeps everything in *directory*."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self._arguments = arguments
        self.port = self.find_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.unix_socket),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "repl-diskless-sync-delay": "0",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *words, *self._arguments], stdout=log, stderr=log
            )
        self.wait_ready()

    def find_port(self) -> int:
        """A port that nobody listens on."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port: int = found.getsockname()[1]
        return port

    @property
    def unix_socket(self) -> Path:
        return self._directory / "socket"

    def wait_ready(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        while True:
            assert self._process.poll() is None, (self._directory / "log").read_text()
            try:
                self.ask("PING")
            except (OSError, hiredis.ReplyError):
                try:
                    # It is under way: this is how long the loop sleeps, not what it hopes for.
                    self._process.wait(0.01)
                except subprocess.TimeoutExpired:
                    pass
            else:
                return

    def ask(self, *words: Any) -> Any:
        """Have it do a command on a connection of its own; return the reply."""
        with socket.create_connection(("127.0.0.1", self.port), _SECONDS) as connection:
            connection.sendall(hiredis.pack_command(words))
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def kill(self) -> None:
        """As the kernel does when there is no memory, or a machine that loses its power."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_SECONDS)

    def stop(self) -> None:
        """Stand still, with all connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def follow(self, other: RedisServer) -> None:
        """Be a replica of *other* that has all that this has."""
        self.ask("REPLICAOF", "127.0.0.1", other.port)
        while self._replication("master_link_status") != "up":
            pass

    def catch_up(self, other: RedisServer) -> None:
        """Wait until this has all that *other* has by now, of which it is a replica."""
        end = int(other._replication("master_repl_offset"))
        while int(self._replication("slave_repl_offset")) < end:
            pass

    def _replication(self, name: str) -> str:
        lines = self.ask("INFO", "replication").decode().splitlines()
        found: dict[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
        return found[name]

    def lead(self) -> None:
        """Be a replica no more."""
        self.ask("REPLICAOF", "NO", "ONE")

    def lose(self, count: int) -> None:
        """Have no record of the newest *count* publications of each topic."""
        self.ask("EVAL", _LOSE, 0, count)


@contextmanager
def run_redis(directory: Path, *arguments: str) -> Generator[RedisServer]:
    server = RedisServer(directory, *arguments)
    server.start()
    try:
        yield server
    finally:
        server.kill()
