"""JSON Web Tokens, as backends issue them for Centrifugo; and those that nobody has issued."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from functools import lru_cache
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from tests.topic_server.support import FORMATS, Peer, Serving, serving, settle, value
from trioweb import ConnectRequest, Member, Tokens, TopicRules, Welcome
from trioweb._centrifuge import _schema as wire
from trioweb._centrifuge._replies import Unsubscribe

SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "another secret of the same length"
TOPICS = {
    "chat": TopicRules(presence=True, publish=True),
    "private": TopicRules(subscribe=False),
    "open": TopicRules(anonymous=True),
}


@lru_cache
def keys(kind: str) -> tuple[Any, str]:
    """A private key, and its public half as PEM."""
    kinds: dict[str, Any] = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "weak RSA": lambda: rsa.generate_private_key(65537, 1024),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    private = kinds[kind]()
    pem = private.public_key().public_bytes(Encoding.PEM, Public.SubjectPublicKeyInfo)
    return private, pem.decode()


def signed(
    claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any
) -> str:
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token that no library would make."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, claims)
    ]
    body = b".".join(parts)
    mac = b"" if secret is None else hmac.digest(secret, body, hashlib.sha256)
    return (body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


async def outcome(web: Serving, token: str) -> tuple[Peer, Any]:
    """What becomes of who connects with *token*: the result, the error's code, or the Close."""
    peer = await web.open()
    await peer.send(wire.ConnectRequest(token=token))
    await settle()
    if not peer.log:
        return peer, peer.closed()
    told = peer.answer(1)
    return peer, told.code if isinstance(told, wire.Error) else told


INVALID = (3500, "invalid token")


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
async def test_a_token_says_who_a_member_is(algorithm: str) -> None:
    key, public = (SECRET, SECRET) if algorithm == "HS256" else keys(algorithm)
    claims = {"sub": "ada", "info": {"name": "Ada"}, "channels": ["private:1", "chat:1"]}
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(public)) as web:
        _, told = await outcome(web, signed(claims, key, algorithm))
        assert (told.expires, [*told.subs]) == (False, ["private:1", "chat:1"])
        [member] = web.server.members
        assert (member.user, member.info) == ("ada", {"name": "Ada"})


async def test_tokens_that_are_none_of_ours_end_the_connection() -> None:
    """Above all: the algorithm is that of our key, and not what the token says."""
    public = keys("RS256")[1]
    hs = {"alg": "HS256", "typ": "JWT"}
    claims = {"sub": "mallory"}
    cases = {
        SECRET: [
            "x",
            "a.b.c",
            "ü" * 20,
            "x" * 20_000,
            signed(claims, OTHER),
            signed(claims, SECRET * 2, "HS512"),
            forged({"alg": "none"}, claims, None),
            forged({"alg": "None", "typ": "JWT"}, claims, None),
            forged(hs, claims, None),
            forged({"alg": "HS384"}, claims, SECRET.encode()),
            signed(claims, keys("RS256")[0], "RS256"),
            signed(claims)[:-3] + "abc",
            forged(hs, {"sub": 5}, SECRET.encode()),
            forged(hs, {"sub": "ada", "exp": True}, SECRET.encode()),
            forged(hs, {"sub": "ada", "exp": "soon"}, SECRET.encode()),
            forged(hs, {"sub": "ada", "exp": 10**400}, SECRET.encode()),
            forged(hs, {"sub": "ada", "channels": "chat:1"}, SECRET.encode()),
            forged(hs, {"sub": "ada", "channels": [1]}, SECRET.encode()),
            signed({"sub": "ada", "nbf": time.time() + 1000}),
        ],
        public: [
            forged(hs, claims, public.encode()),
            forged({"alg": "none"}, claims, None),
            signed(claims, keys("ES256")[0], "ES256"),
        ],
    }
    for key, tokens in cases.items():
        async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(key)) as web:
            for token in tokens:
                _, told = await outcome(web, token)
                assert told == INVALID, token
            assert not web.server.members


async def test_audience_and_issuer_are_checked_where_given() -> None:
    good = {"sub": "ada", "aud": "us", "iss": "them"}
    strict = Tokens(SECRET, audience="us", issuer="them")
    async with serving(topics=TOPICS, on_connect=None, tokens=strict) as web:
        for claims in ({**good, "aud": "x"}, {**good, "iss": "x"}, {"sub": "ada"}):
            assert (await outcome(web, signed(claims)))[1] == INVALID
        assert isinstance((await outcome(web, signed(good)))[1], wire.ConnectResult)
        listed = signed({**good, "aud": ["x", "us"]})
        assert isinstance((await outcome(web, listed))[1], wire.ConnectResult)
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        assert isinstance((await outcome(web, signed(good)))[1], wire.ConnectResult)


async def test_of_several_keys_the_kid_picks_one() -> None:
    named = Tokens({"a": SECRET, "b": keys("ES256")[1]})
    async with serving(topics=TOPICS, on_connect=None, tokens=named) as web:
        claims = {"sub": "ada"}
        for token in (
            signed(claims, kid="a"),
            signed(claims),
            signed(claims, keys("ES256")[0], "ES256", kid="b"),
        ):
            assert isinstance((await outcome(web, token))[1], wire.ConnectResult)
        for token in (signed(claims, kid="b"), signed(claims, kid="c"), signed(claims, OTHER)):
            assert (await outcome(web, token))[1] == INVALID
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens([OTHER, SECRET])) as web:
        for token in (signed(claims), signed(claims, OTHER), signed(claims, kid="x")):
            assert isinstance((await outcome(web, token))[1], wire.ConnectResult)


@FORMATS
async def test_expiry_is_honoured_and_can_be_refreshed(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        now = time.time()
        assert (await outcome(web, signed({"sub": "ada", "exp": now - 1})))[1] == 109
        peer = await web.connect(format, token=signed({"sub": "ada", "exp": now + 100}))
        told = peer.answer(1)
        assert told.expires and 95 <= told.ttl <= 100
        told = await peer.ask(wire.RefreshRequest(token=signed({"sub": "ada", "exp": now + 500})))
        assert told.expires and 495 <= told.ttl <= 500
        assert (
            await peer.ask(wire.RefreshRequest(token=signed({"sub": "ada", "exp": now - 1})))
        ).code == 109
        await trio.sleep(510)
        assert peer.closed() == (None, "")
        await trio.sleep(20)
        assert peer.closed() == (3005, "connection expired")
        stays = await web.connect(
            format, token=signed({"sub": "ada", "exp": now + 100, "expire_at": 0})
        )
        assert not stays.answer(1).expires
        await stays.send(wire.RefreshRequest(token=signed({"sub": "bob"})))
        await settle()
        assert stays.closed() == INVALID


@FORMATS
async def test_a_subscription_token_is_for_one_user_and_one_topic(
    format: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        peer = await web.connect(format, token=signed({"sub": "ada"}))
        client = peer.answer(1).client
        good = {"sub": "ada", "channel": "private:1"}
        assert (await peer.subscribe("private:1")).code == 103
        for claims in (
            {**good, "sub": "bob"},
            {**good, "channel": "private:2"},
            {**good, "client": "another"},
            {"sub": "ada"},
            {"channel": "private:1"},
        ):
            assert (await peer.subscribe("private:1", token=signed(claims))).code == 103
        now = time.time()
        expired = signed({**good, "exp": now - 1})
        assert (await peer.subscribe("private:1", token=expired)).code == 109
        fit = signed({**good, "client": client, "exp": now + 10, "info": {"seat": 1}})
        told = await peer.subscribe("private:1", token=fit)
        assert told.expires and told.ttl <= 10
        renewed = wire.SubRefreshRequest(topic="private:1", token=signed({**good, "exp": now + 50}))
        assert (await peer.ask(renewed)).ttl >= 45
        wrong = wire.SubRefreshRequest(topic="private:1", token=signed({**good, "sub": "bob"}))
        assert (await peer.ask(wrong)).code == 103
        await trio.sleep(80)
        [push] = peer.pushes
        assert push.unsubscribe == Unsubscribe(2501, "subscription expired")
        [id] = await peer.send(wire.SubscribeRequest(topic="private:1", token=signed(good, OTHER)))
        await settle()
        assert peer.closed() == INVALID
        assert not [reply for reply in peer.log if reply.id == id]


async def test_info_of_a_subscription_token_is_told_to_others() -> None:
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        peer = await web.connect(token=signed({"sub": "ada", "b64info": "AAE="}))
        token = signed({"sub": "ada", "channel": "chat:1", "info": {"seat": 1}})
        await peer.subscribe("chat:1", token=token)
        told = await peer.ask(wire.PresenceRequest(topic="chat:1"))
        [info] = told.presence.values()
        assert (value(info.conn_info), value(info.chan_info)) == ("AAE=", {"seat": 1})


async def test_who_has_no_token_may_be_where_anybody_may() -> None:
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        peer = await web.connect()
        assert (await peer.subscribe("chat:1")).code == 103
        assert (await peer.subscribe("open:1")).recoverable
        token = signed({"sub": "", "channel": "chat:1"})
        assert (await peer.subscribe("chat:1", token=token)).recoverable
    strict = {"chat": TopicRules()}
    async with serving(topics=strict, on_connect=None, tokens=Tokens(SECRET)) as web:
        assert (await outcome(web, ""))[1] == INVALID


async def test_the_program_has_the_last_word() -> None:
    async def on_connect(member: Member, request: ConnectRequest) -> Welcome | None:
        assert member.user == "ada"
        return Welcome(user="Ada L.") if request.name else None

    async def on_refresh(member: Member, token: str) -> Welcome:
        return Welcome(ttl=float(token))

    async with serving(
        topics=TOPICS, on_connect=on_connect, on_refresh=on_refresh, tokens=Tokens(SECRET)
    ) as web:
        token = signed({"sub": "ada"})
        await web.connect(token=token)
        peer = await web.connect(token=token, name="x")
        assert sorted(member.user for member in web.server.members) == ["Ada L.", "ada"]
        assert (await peer.ask(wire.RefreshRequest(token="7"))).ttl == 7


async def test_a_token_with_a_topic_that_there_is_not_is_refused() -> None:
    async with serving(topics=TOPICS, on_connect=None, tokens=Tokens(SECRET)) as web:
        assert (await outcome(web, signed({"sub": "ada", "channels": ["no:1"]})))[1] == 102


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("hunter2", ValueError, "of 7 bytes .* at least 32"),
        ([], ValueError, "one"),
        ({}, ValueError, "one"),
        (5, TypeError, "keys"),
        ([5], TypeError, "keys"),
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", ValueError, "PEM"),
    ],
)
def test_keys_that_cannot_be_are_told_without_being_shown(
    given: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        Tokens(given)
    assert "hunter2" not in str(raised.value)


def test_private_and_weak_keys_are_refused() -> None:
    private = keys("RS256")[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for given in (private, keys("weak RSA")[1], keys("ES384")[1]):
        with pytest.raises(ValueError, match="public key"):
            Tokens(given)
    assert SECRET not in repr(Tokens(SECRET))


@pytest.mark.network
@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_the_error_without_pyjwt_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules['{missing}'] = None; import trioweb; trioweb.Tokens('x' * 32)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "ImportError: tokens need PyJWT[crypto]: pip install 'trioweb[jwt]'" in done.stderr
