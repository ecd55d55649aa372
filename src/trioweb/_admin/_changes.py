"""What an admin may change: publish, close a connection, log its frames, drain.

NOTE: Each change is in the log, with the address of whoever made it; and none is made for a page of
another origin, even one that may connect: its script would have the key of our admin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import msgspec
import trio

from .._centrifuge._codes import ErrorCode
from .._close_codes import CloseCode
from .._connection import Connection
from .._logs import log
from .._protocol._frames import check_close
from .._protocol._http import brief, format_address
from .._refusals import Refuse
from .._server._origins import Origins
from .._topic_server import Member, TopicRules
from ._lists import Row, Turns

if TYPE_CHECKING:
    from .._server import Server
    from .._topics import Hub, Kind
    from ._together import Colleagues

logger = logging.getLogger("trioweb.admin")

_KINDS: Final = ("text", "json")
_MAX_NAME_BYTES: Final = 255
_COST_OF_LOOK: Final = 6


def text_of(data: Any, name: str, usual: str | None = None) -> str:
    """What *data* says under *name*, which is text.  Raises Refuse if it is not."""
    value = data.get(name, usual) if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise Refuse(ErrorCode.BAD_REQUEST, f"{name} must be text")
    return value


def _address(member: Member) -> str:
    return format_address(member.connection.remote)


class Changes:
    """Makes them.

    Args:
        rules: as for `open_topic_server(topics=…)`; a topic without any cannot be published to.
        spawn: starts the task of a drain.

    Attributes:
        server: whose connections they are; set it before there are changes.
        colleagues: who else may have the connection that is meant; None if nobody.
        farewell: the grace and the spread of a drain.
        traced: connections whose frames are logged.
    """

    server: Server
    colleagues: Colleagues | None = None

    def __init__(
        self,
        hub: Hub,
        *,
        rules: Callable[[str], TopicRules | None],
        spawn: Callable[..., object],
    ) -> None:
        self.farewell: tuple[float, float] = (10, 0)
        self.traced: WeakSet[Connection] = WeakSet()
        self._hub = hub
        self._rules = rules
        self._spawn = spawn
        self._own = Origins(())

    async def publish(self, member: Member, data: Any) -> Row:
        """Publish a `text` to a `topic`, as `kind` "text" or "json"."""
        self._check(member)
        name, text, kind = text_of(data, "topic"), text_of(data, "text"), data.get("kind", "text")
        if kind not in _KINDS:
            raise Refuse(ErrorCode.BAD_REQUEST, "kind must be text or json")
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise Refuse(ErrorCode.BAD_REQUEST, f"a name has at most {_MAX_NAME_BYTES} bytes")
        rules = self._rules(name)
        if rules is None:
            raise Refuse(ErrorCode.UNKNOWN_TOPIC, "there are no rules for that topic")
        if kind == "json":
            try:
                msgspec.json.decode(text)
            except msgspec.DecodeError:
                raise Refuse(ErrorCode.BAD_REQUEST, "this is not JSON") from None
        what: Kind = "json" if kind == "json" else "text"
        topic = self._hub.topic(name, retain=rules.retain)
        position = await topic.publish_confirmed(text, kind=what)
        self._tell(_address(member), "published to %s", brief(name), topic=name)
        return {"offset": position.offset, "epoch": position.epoch}

    async def close(self, member: Member, data: Any) -> Row:
        """Close the connection `id` with a `code` and a `reason`."""
        self._check(member)
        reason = text_of(data, "reason", "")
        code = data.get("code", int(CloseCode.NORMAL))
        try:
            check_close(code, reason)
        except (TypeError, ValueError) as exc:
            raise Refuse(ErrorCode.BAD_REQUEST, str(exc)) from None
        await self._have_done(
            "close", member, {"id": text_of(data, "id"), "code": code, "reason": reason}
        )
        return {}

    async def trace(self, member: Member, data: Any) -> Row:
        """Log the frames of the connection `id` (`on`), or no more."""
        self._check(member)
        is_on = data.get("on", True) if isinstance(data, dict) else True
        await self._have_done("trace", member, {"id": text_of(data, "id"), "on": bool(is_on)})
        return {}

    async def _have_done(self, what: str, member: Member, data: Row) -> None:
        """Have `do` done wherever the connection is."""
        data["by"] = _address(member)
        if await self.do(what, data):
            return
        others = [] if self.colleagues is None else await self.colleagues.ask(what, data)
        if any(answer for _, answer in others):
            return
        raise Refuse(ErrorCode.BAD_REQUEST, "there is no such connection any more")

    async def do(self, what: str, data: Row) -> bool:
        """Do what an admin `by` that address was allowed, if its connection is here.

        Args:
            what: "close" or "trace".
            data: as `close` or `trace` takes them, checked.
        """
        connection = await self._find(data["id"])
        if connection is None:
            return False
        who = format_address(connection.remote)
        if what == "close":
            code = data["code"]
            text = "closed the connection of %s"
            self._tell(data["by"], text, who, whose=connection, code=code)
            connection.link.close(code, data["reason"])
            return True
        is_on = data["on"]
        logs = "logs" if is_on else "does not log any more"
        self._tell(data["by"], "%s the frames of %s", logs, who, whose=connection)
        connection.trace(is_on)
        if is_on:
            self.traced.add(connection)
        else:
            self.traced.discard(connection)
        return True

    async def drain(self, member: Member, data: Any) -> Row:
        """Stop softly."""
        await trio.lowlevel.checkpoint()
        self._check(member)
        self._tell(_address(member), "drains the server")
        self._spawn(self.server.drain, *self.farewell)
        return {}

    async def _find(self, id: str) -> Connection | None:
        turns = Turns()
        for connection in self.server.connections:
            if connection.id == id:
                return connection
            await turns.spend(_COST_OF_LOOK)
        return None

    def _check(self, member: Member) -> None:
        """Raise Refuse unless *member* may make changes."""
        complaint = self._own.complaint(member.connection.request)
        if complaint is not None:
            who = _address(member)
            log(
                logger,
                logging.WARNING,
                None,
                "admin at %s: a change was refused: %s",
                who,
                complaint,
                address=who,
            )
            raise Refuse(ErrorCode.PERMISSION_DENIED, "not for pages of another origin")

    def _tell(
        self,
        who: str,
        text: str,
        *args: object,
        whose: Connection | None = None,
        topic: str | None = None,
        code: int | None = None,
    ) -> None:
        log(
            logger,
            logging.INFO,
            whose,
            f"admin at %s {text}",
            who,
            *args,
            address=who,
            topic=topic,
            code=code,
        )
