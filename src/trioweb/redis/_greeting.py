"""How a connection to a Redis begins: who we are, who it is, and what it has to know.

    HELLO 3 [AUTH], [SELECT]       from here on replies and pushes can be told apart
    INFO server, ROLE              which process this is; a replica must not be published to
    HGETALL, HSETNX                the engines that all nodes have, see `_share`
    CLIENT KILL ID                 what the connection before still carried is not done any more
    SCRIPT LOAD                    the rules of an engine, in Lua

Everything is asked at once that needs no answer before, and waited for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import hiredis
import trio

from .._topics._engine_link import EngineLost
from ._names import Names
from ._share import Share

_CHUNK: Final = 64 * 2**10
_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
# By what they share.
_SCRIPTS: Final = {
    "topic": ("publish", "place", "load"),
    "presence": ("enter", "leave", "members", "count", "reap"),
    None: ("renew",),
}


def read_scripts() -> dict[str, str]:
    """The scripts, by name, each behind what they share."""
    where = files(__package__).joinpath("_scripts")

    def read(name: str | None) -> str:
        return "" if name is None else where.joinpath(f"{name}.lua").read_text("utf-8")

    return {name: read(shared) + read(name) for shared, names in _SCRIPTS.items() for name in names}


class Greeting:
    """What was learnt: `id` of the connection, `run` of the process, digests of `scripts`."""

    def __init__(
        self, stream: trio.abc.Stream, scripts: dict[str, str], names: Names, share: Share
    ) -> None:
        self.id = ""
        self.run = ""
        self.scripts: dict[str, bytes] = {}
        self.reader = hiredis.Reader()
        self._stream = stream
        self._sources = scripts
        self._names = names
        self._share = share

    async def exchange(
        self, credentials: tuple[str, str] | None, database: int, fence: str
    ) -> None:
        """Greet the server.  Checkpoint: always.

        Raises:
            EngineLost: it does not let us, is not what we need, or is not ready.
            OSError, trio.BrokenResourceError: the connection broke.
        """
        hello: tuple[str, ...] = ("HELLO", "3")
        if credentials is not None:
            hello += ("AUTH", *credentials)
        [welcome] = await self._ask(hello)
        number = str(welcome[b"id"])
        first = [("SELECT", str(database))] if database else []
        *_, info, role = await self._ask(*first, ("INFO", "server"), ("ROLE",))
        if role[0] != b"master":
            raise EngineLost(f"the server is a {role[0].decode()}")
        found = _RUN_ID.search(info)
        if found is None:
            raise EngineLost("the server does not tell its run_id")
        self.run = found[1].decode()
        self.id = f"{self.run}:{number}"
        # The numbers of another process are others' connections.
        run, _, old = fence.rpartition(":")
        if run == self.run:
            try:
                await self._ask(("CLIENT", "KILL", "ID", old))
            except EngineLost as exc:
                if "No such client" not in str(exc):
                    raise
        await self._agree()
        loaded = await self._ask(*(("SCRIPT", "LOAD", each) for each in self._sources.values()))
        self.scripts = dict(zip(self._sources, loaded, strict=True))

    async def _agree(self) -> None:
        """Have the same engines as all others."""
        share, question = self._share, ("HGETALL", self._names.engines)
        [known] = await self._ask(question)
        share.check(read_engines(known))
        if str(share.generation).encode() not in known:
            try:
                await self._ask(("HSETNX", self._names.engines, share.generation, share.list))
            except EngineLost as exc:
                # One that is full refuses each publication, and says so to who publishes.
                if "OOM" not in str(exc):
                    raise
            [known] = await self._ask(question)
            share.check(read_engines(known))

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        return await ask(self._stream, self.reader, commands)


def read_engines(reply: dict[bytes, bytes]) -> dict[int, str]:
    """Lists of engines, by generation.

    Raises:
        EngineLost: they are none.
    """
    try:
        return {int(generation): names.decode() for generation, names in reply.items()}
    except ValueError as exc:
        raise EngineLost(f"its list of engines is not trioweb's: {exc}") from exc


async def ask(
    stream: trio.abc.Stream, reader: hiredis.Reader, commands: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Have the server do *commands*; return its replies.

    Raises: as `Greeting.exchange`.
    """
    await stream.send_all(b"".join(hiredis.pack_command(each) for each in commands))
    replies: list[Any] = []
    try:
        while len(replies) < len(commands):
            reply = reader.gets()
            if reply is False:
                data = await stream.receive_some(_CHUNK)
                if not data:
                    raise EngineLost("the server has closed the connection")
                reader.feed(bytes(data))
            elif isinstance(reply, hiredis.ReplyError):
                # What is behind the first word may be a password.
                raise EngineLost(f"{commands[len(replies)][0]}: {reply}")
            else:
                replies.append(reply)
    except hiredis.ProtocolError as exc:
        raise EngineLost(f"the server does not speak RESP: {exc}") from exc
    return replies
