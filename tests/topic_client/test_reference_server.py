"""What the reference server says, in both formats, and what its rules want to hear.

It cannot be had from the registries that these tests install from, so this is its part, put
together from its sources: github.com/centrifugal/centrifuge at 1d8f99f1, client.go (`connectCmd`,
`subscribeCmd`, `getConnectCommandReply`, `getSubscribePushReply`, `Unsubscribe`, `handlePong`),
hub.go and broker_memory.go for publications, disconnect.go for how it ends.  What is Protobuf is
written by Google's library, with the schema that centrifuge-python has.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import trio
import trio.testing

import trioweb
from tests.topic_client.support import Fake, against
from tests.topic_server.support import settle
from trioweb import Gap, Joined, Left, MemberInfo, Position, Subscribed, Unsubscribed

client_pb2: Any = pytest.importorskip("centrifuge.protocol.client_pb2")
varint: Any = pytest.importorskip("google.protobuf.internal.encoder")
decoder: Any = pytest.importorskip("google.protobuf.internal.decoder")
json_format: Any = pytest.importorskip("google.protobuf.json_format")

# Payloads, which are JSON inside of JSON, and bytes in Protobuf.
_RAW: Final = {"data", "conn_info", "chan_info"}
FORMATS: Final = pytest.mark.parametrize("format", ["centrifuge-json", "centrifuge-protobuf"])
_BOB: Final = {"user": "bob", "client": "7b4c", "conn_info": {"name": "Bob"}}


def _filled(message: Any, values: dict[str, Any]) -> Any:
    """*message* of Google's with *values*."""
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if name in _RAW:
            setattr(message, name, json.dumps(value).encode())
        elif field.message_type is None:
            setattr(message, name, value)
        elif field.message_type.GetOptions().map_entry:
            entries = getattr(message, name)
            for key, each in value.items():
                if isinstance(each, str):
                    entries[key] = each
                else:
                    _filled(entries[key], each)
        elif isinstance(value, list):
            for each in value:
                _filled(getattr(message, name).add(), each)
        else:
            part = getattr(message, name)
            part.SetInParent()
            _filled(part, value)
    return message


class Reference(Fake):
    """Its part.  Commands are noted as JSON says them, in both formats."""

    async def handle(self, connection: trioweb.Connection) -> None:
        self.connections.append(connection)
        async for message in connection:
            for command in self._commands(message):
                self.said.append(command)
                name = next((name for name in command if name != "id"), "")
                reply = self.replies.get(name, {name: {}})
                if command.get("id"):
                    await self.push({"id": command["id"], **reply})

    def _commands(self, message: str | bytes) -> list[dict[str, Any]]:
        if isinstance(message, str):
            return [json.loads(line) for line in message.split("\n")]
        commands, at = [], 0
        while at < len(message):
            size, at = decoder._DecodeVarint(message, at)
            command = client_pb2.Command.FromString(message[at : at + size])
            at += size
            # Its way to write 64 bits is a string, and bytes are base64: neither is looked at.
            commands.append(json_format.MessageToDict(command, preserving_proto_field_name=True))
        return commands

    async def push(self, *whats: Any) -> None:
        """Write *whats* in one frame."""
        connection = self.connections[-1]
        if connection.subprotocol == "centrifuge-json":
            await connection.send("\n".join(json.dumps(what) for what in whats))
            return
        parts = []
        for what in whats:
            data = _filled(client_pb2.Reply(), what).SerializeToString()
            parts.append(varint._VarintBytes(len(data)) + data)
        await connection.send(b"".join(parts))


def _of_client(client: str, subs: dict[str, Any]) -> dict[str, Any]:
    told = {"client": client, "version": "6.9.1", "subs": subs, "ping": 25, "pong": True}
    return {"connect": told}


def _event(channel: str, **event: Any) -> dict[str, Any]:
    return {"push": {"channel": channel, **event}}


@FORMATS
async def test_topics_of_the_servers_choice_over_two_connections(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    reference = Reference()
    place = {"recoverable": True, "positioned": True}
    begun = {"user:ann": {**place, "epoch": "xYzA", "offset": 7}}
    reference.replies["connect"] = _of_client("5a1e", begun)
    async with against(reference, subprotocols=[format]) as client:
        stream = client.server_subscriptions(events=True)
        await client.wait_open()
        assert client.id == "5a1e"
        await reference.push(
            _event("user:ann", pub={"data": {"n": 8}, "offset": 8, "time": 1_700_000_000_000}),
            _event("user:ann", join={"info": _BOB}),
            {},  # a ping
            _event("late", subscribe={**place, "epoch": "q", "offset": 1, "data": {"so": True}}),
            _event("late", pub={"data": [2], "offset": 2, "tags": {"a": "b"}, "info": _BOB}),
        )
        bob = MemberInfo("bob", "7b4c", {"name": "Bob"})
        got = [await anext(stream) for _ in range(5)]
        assert got[0] == ("user:ann", Subscribed(True, Position("xYzA", 7), None))
        assert got[1][1].data == {"n": 8}  # type: ignore[union-attr]
        assert got[2] == ("user:ann", Joined(bob))
        assert got[3] == ("late", Subscribed(True, Position("q", 1), {"so": True}))
        topic, publication = got[4]
        assert topic == "late"
        assert publication == trioweb.TopicPublication(2, [2], {"a": "b"}, bob)
        # One pong for one ping; one more would end the connection (3501).
        await settle()
        assert [name for name in reference.names() if name != "connect"] == [""]
        # On a connection that has fallen behind, what the server chose ends all of it.
        recovered = {**place, "recovered": True, "was_recovering": True}
        missed = [{"data": {"n": 9}, "offset": 9}, {"data": {"n": 10}, "offset": 10}]
        again = {
            "user:ann": {**recovered, "epoch": "xYzA", "offset": 8, "publications": missed},
            "late": {**place, "was_recovering": True, "epoch": "r", "offset": 30},
        }
        reference.replies["connect"] = _of_client("5a1f", again)
        await reference.connections[-1].aclose(3010, "insufficient state")
        await trio.sleep(3)
        asked = reference.said[-1]["connect"]["subs"]
        for topic, epoch, offset in (("user:ann", "xYzA", 8), ("late", "q", 2)):
            assert (asked[topic]["recover"], asked[topic]["epoch"]) == (True, epoch)
            assert int(asked[topic]["offset"]) == offset
        by_topic: dict[str, list[Any]] = {"user:ann": [], "late": []}
        for _ in range(5):
            topic, item = await anext(stream)
            by_topic[topic].append(item)
        first, *rest = by_topic["user:ann"]
        assert first == Subscribed(True, Position("xYzA", 8), None)
        assert [item.data for item in rest] == [{"n": 9}, {"n": 10}]
        gap, subscribed = by_topic["late"]
        assert isinstance(gap, Gap)
        assert gap.missing is None
        assert subscribed == Subscribed(False, Position("r", 30), None)
        # It says so by a push, and counts the topic no more.
        await reference.push(
            _event("user:ann", leave={"info": _BOB}),
            _event("user:ann", unsubscribe={"code": 2000, "reason": "server unsubscribe"}),
            _event("user:ann", pub={"data": 0, "offset": 11}),
        )
        assert await anext(stream) == ("user:ann", Left(bob))
        topic, ended = await anext(stream)
        assert isinstance(ended, Unsubscribed)
        assert ended.code == 2000
        await settle()
        assert not stream._items


@FORMATS
async def test_what_a_program_asks_for_is_answered(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    reference = Reference()
    position = {"epoch": "xYzA", "offset": 4}
    reference.replies |= {
        "connect": _of_client("5a1e", {}),
        "subscribe": {
            "subscribe": {
                "recoverable": True, "positioned": True, **position, "expires": True, "ttl": 300,
            }
        },
        "history": {"history": {**position, "publications": [{"data": 4, "offset": 4}]}},
        "presence": {"presence": {"presence": {"7b4c": _BOB}}},
        "presence_stats": {"presence_stats": {"num_clients": 3, "num_users": 2}},
        "rpc": {"rpc": {"data": {"sum": 3}}},
    }  # fmt: skip
    async with (
        against(reference, subprotocols=[format]) as client,
        client.subscription("news", token="t") as news,
    ):
        asked = reference.said[-1]["subscribe"]
        assert (asked["channel"], asked["token"]) == ("news", "t")
        assert (asked["positioned"], asked["recoverable"]) == (True, True)
        await client.publish("news", {"text": "hello"})
        history = await client.history("news", limit=1, reverse=True)
        assert history.position == Position("xYzA", 4)
        assert [publication.data for publication in history.publications] == [4]
        assert list(await client.presence("news")) == ["7b4c"]
        assert await client.presence_stats("news") == trioweb.PresenceStatistics(3, 2)
        assert await client.call("sum", [1, 2]) == {"sum": 3}
        await reference.push(_event("news", pub={"data": "five", "offset": 5}))
        assert (await anext(news)).data == "five"
        for command in reference.said[1:]:
            assert "x_" not in json.dumps(command)
        reference.replies["rpc"] = {"error": {"code": 104, "message": "method not found"}}
        with pytest.raises(trioweb.Refused) as caught:
            await client.call("nothing")
        assert (caught.value.code, caught.value.message) == (104, "method not found")
        # It comes back with its position where the server has lost track (2500).
        await reference.push(
            _event("news", unsubscribe={"code": 2500, "reason": "insufficient state"})
        )
        await trio.sleep(10)
        asked = reference.said[-1]["subscribe"]
        assert (asked["recover"], asked["epoch"], int(asked["offset"])) == (True, "xYzA", 5)
    await settle()
