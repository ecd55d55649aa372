"""The application that other people's clients of the Centrifuge protocol are checked with.

    topic_server.py --port N --ping SECONDS [--compression] [--broker URL]

It listens at port N of 127.0.0.1 (0: any), pings every SECONDS, and writes the port on its standard
output.  SIGTERM stops it softly.  A URL of a Redis joins it with others.

| topics | rules |
|---|---|
| `chat:*` | 100 messages retained, publishing, history, presence, join and leave for who asks |
| `small:*` | likewise, but 5 messages, and no presence |
| `big:*` | 10,000 messages or 8 MiB, publishing |
| `now:*` | the latest message is what is recovered |
| `token:*` | only with a token: `ttl:N`, or `expired` |
| `secret:*` | nobody may subscribe |

Everybody may connect.  `{"user": NAME}` in the data of `connect` is who one is, and `"subs"` there
what one is subscribed to at once.  A token of `connect` is `ttl:N`, `expired`, `invalid`, `no` or
`busy`.  `CALLS` is what can be called.
"""

from __future__ import annotations

import json
import signal
from argparse import ArgumentParser
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

import trioweb
from trioweb import Dismiss, Granted, Member, MemberLimits, Refuse, Retain, TopicRules, Welcome

_RULES: Final = TopicRules(
    retain=Retain(max_messages=100), publish=True, history=True, presence=True, join_leave=True
)
TOPICS: Final = {
    "chat": _RULES,
    "small": TopicRules(retain=Retain(max_messages=5), publish=True, history=True, join_leave=True),
    "big": TopicRules(retain=Retain(max_messages=10_000, max_bytes=8 * 2**20), publish=True),
    "now": TopicRules(recover="latest", publish=True),
    "token": TopicRules(subscribe=False),
    "secret": TopicRules(subscribe=False),
}
# By the token of `connect`.
_REFUSED: Final = {"busy": (100, True), "no": (1000, False)}


@dataclass
class Application:
    """What the callables share.

    Attributes:
        running: calls of `sleep` that are at work.
        messages: the newest of what was sent outside of topics, as JSON.
    """

    hub: trioweb.Hub
    server: trioweb.TopicServer | None = None
    running: int = 0
    messages: list[str] = field(default_factory=list)

    async def on_connect(self, member: Member, request: trioweb.ConnectRequest) -> Welcome:
        if request.token in _REFUSED:
            code, is_temporary = _REFUSED[request.token]
            raise Refuse(code, "as you wish", is_temporary)
        ttl = _ttl_of(request.token)
        data = request.data if isinstance(request.data, dict) else {}
        name = data.get("user", "")
        return Welcome(
            user=name,
            info={"name": name} if name else None,
            data={"hello": "there"},
            ttl=ttl,
            topics=data.get("subs", ()),
        )

    async def on_subscribe(
        self, member: Member, request: trioweb.SubscribeRequest
    ) -> Granted | None:
        if request.topic.startswith("token:"):
            if not request.token:
                raise Refuse(103)
            return Granted(data={"welcome": True}, ttl=_ttl_of(request.token))
        if request.topic.startswith("chat:slow"):
            await trio.sleep(0.1)
        return None

    async def on_refresh(self, member: Member, token: str) -> Welcome:
        return Welcome(ttl=_ttl_of(token))

    async def on_renew(self, member: Member, topic: str, token: str) -> Granted:
        return Granted(ttl=_ttl_of(token))

    async def on_message(self, member: Member, data: Any) -> None:
        self.messages = [*self.messages[-99:], json.dumps(data)]

    # What can be called.

    async def echo(self, member: Member, data: Any) -> Any:
        return data

    async def sleep(self, member: Member, data: Any) -> str:
        self.running += 1
        try:
            await trio.sleep(data)
        finally:
            self.running -= 1
        return "slept"

    async def fail(self, member: Member, data: Any) -> None:
        raise Refuse(1400, "as you wish", temporary=True)

    async def boom(self, member: Member, data: Any) -> None:
        raise ZeroDivisionError("as you wish")

    async def count(self, member: Member, data: Any) -> int:
        return self.running

    async def show_messages(self, member: Member, data: Any) -> list[str]:
        return self.messages

    async def publish(self, member: Member, data: Any) -> int:
        assert self.server is not None
        for value in data["values"]:
            offset = self.server.publish(data["channel"], value, tags=data.get("tags"))
        return offset

    async def message(self, member: Member, data: Any) -> None:
        await member.send(data)

    async def abort(self, member: Member, data: Any) -> None:
        member.connection.link.abort("as you wish")

    async def disconnect(self, member: Member, data: Any) -> None:
        code, reason = data.get("code", 3503), data.get("reason", "")
        if code < 3000:  # not for applications
            member.connection.link.close(code, reason)
            return
        raise Dismiss(code, reason)

    async def subscribe(self, member: Member, data: Any) -> None:
        await member.subscribe(data)

    async def unsubscribe(self, member: Member, data: Any) -> None:
        given = {name: data[name] for name in ("code", "reason") if name in data}
        member.unsubscribe(data["channel"], **given)

    async def forget(self, member: Member, data: Any) -> None:
        """Let the topic begin another life, as after a restart."""
        assert self.server is not None
        for other in self.server.presence(data):
            other.unsubscribe(data, 2500, "insufficient state")
        self.hub._retention.forget(self.hub.topic(data))
        self.hub._retention._forget_position(data)


def _ttl_of(token: str) -> float | None:
    """How long *token* lasts."""
    if token == "invalid":
        raise Dismiss(3500)
    if token == "expired":
        return 0
    kind, _, seconds = token.partition(":")
    return float(seconds) if kind == "ttl" else None


async def main(
    port: int,
    ping: int,
    compression: trioweb.Deflate | None,
    store: str | None,
    broker: trioweb.Broker | None,
) -> None:
    async with trioweb.open_hub(store=store, broker=broker) as hub:
        app = Application(hub)
        calls = {
            "echo": app.echo,
            "sleep": app.sleep,
            "fail": app.fail,
            "boom": app.boom,
            "ctl.running": app.count,
            "ctl.messages": app.show_messages,
            "ctl.publish": app.publish,
            "ctl.message": app.message,
            "ctl.abort": app.abort,
            "ctl.disconnect": app.disconnect,
            "ctl.subscribe": app.subscribe,
            "ctl.unsubscribe": app.unsubscribe,
            "ctl.forget": app.forget,
        }
        async with trioweb.open_topic_server(
            hub,
            topics=TOPICS,
            on_connect=app.on_connect,
            on_subscribe=app.on_subscribe,
            on_refresh=app.on_refresh,
            on_renew=app.on_renew,
            on_message=app.on_message,
            calls=calls,
            limits=MemberLimits(),
            ping=ping,
        ) as app.server:
            async with trio.open_nursery() as nursery:
                serve = partial(
                    trioweb.serve,
                    app.server.handle,
                    port,
                    host="127.0.0.1",
                    origins=("*",),
                    subprotocols=app.server.subprotocols,
                    compression=compression,
                    hub=hub,
                )
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    listening: trioweb.Server = await nursery.start(serve)
                    print(listening.port, flush=True)
                    async for _ in signals:
                        await listening.drain(grace=2, code=3001, reason="shutdown")
                        return


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ping", type=int, default=25)
    parser.add_argument("--compression", action="store_true")
    parser.add_argument("--store")
    parser.add_argument("--broker")
    given = parser.parse_args()
    broker = None
    if given.broker is not None:
        from trioweb.redis import RedisBroker

        broker = RedisBroker(given.broker)
    compression = trioweb.Deflate() if given.compression else None
    trio.run(main, given.port, given.ping, compression, given.store, broker)
