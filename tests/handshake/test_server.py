"""Which upgrades a server takes (RFC 6455 section 4.2.1)."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from tests.handshake.support import KEY, encode_request, upgrade
from trioweb import Request
from trioweb._handshake import check_upgrade, is_upgrade
from trioweb._protocol._http import BadHead
from trioweb._protocol._requests import parse_request

_GOOD_UPGRADES: Mapping[str, Request] = {
    "as the RFC has it": upgrade(),
    "as Firefox has it": upgrade({"Connection": "keep-alive, Upgrade"}),
    "in capitals": upgrade({"Connection": "UPGRADE", "Upgrade": "WebSocket"}),
    "two Connection lines": upgrade(None, ("Connection", "keep-alive")),
    "more upgrades": upgrade({"Upgrade": "h2c, websocket"}),
    "subprotocols": upgrade({"Sec-WebSocket-Protocol": "chat, superchat"}),
    "extensions": upgrade({"Sec-WebSocket-Extensions": "permessage-deflate; x=1"}),
    "a port": upgrade({"Host": "trioweb.test:8000"}),
    "IPv4": upgrade({"Host": "127.0.0.1:8000"}),
    "IPv6": upgrade({"Host": "[::1]:8000"}),
    "a name of IDNA 2008": upgrade({"Host": "xn--strae-oqa.example"}),
    "a long name with its port": upgrade({"Host": "a" * 63 + ":8000"}),
    "an underscore": upgrade({"Host": "my_service"}),
}


@pytest.mark.parametrize("request_", _GOOD_UPGRADES.values(), ids=_GOOD_UPGRADES)
def test_check_upgrade_passes_a_good_one(request_: Request) -> None:
    parsed = parse_request(encode_request(request_), remote="", local="")
    assert is_upgrade(parsed)
    check_upgrade(parsed)


@pytest.mark.parametrize(
    "line",
    [
        "Sec-WebSocket-Key:{}",
        "Sec-WebSocket-Key: \t {} \t",
        "sec-websocket-key: {}",
    ],
)
def test_key_that_check_upgrade_passes_is_the_key_however_it_is_written(line: str) -> None:
    head = encode_request(upgrade({"Sec-WebSocket-Key": None}))
    head = head[:-2] + line.format(KEY).encode() + b"\r\n\r\n"
    request = parse_request(head, remote="", local="")
    check_upgrade(request)
    assert request.headers["sec-websocket-key"] == KEY


_BAD_UPGRADES: Mapping[str, tuple[Request, int]] = {
    "POST": (upgrade(method="POST"), 405),
    "HEAD": (upgrade(method="HEAD"), 405),
    "get": (upgrade(method="get"), 405),
    "no Connection": (upgrade({"Connection": None}), 400),
    "another Connection": (upgrade({"Connection": "keep-alive"}), 400),
    "nearly Upgrade": (upgrade({"Connection": "Upgrades"}), 400),
    "no version": (upgrade({"Sec-WebSocket-Version": None}), 426),
    "version 8": (upgrade({"Sec-WebSocket-Version": "8"}), 426),
    "version 14": (upgrade({"Sec-WebSocket-Version": "14"}), 426),
    "version 013": (upgrade({"Sec-WebSocket-Version": "013"}), 426),
    "two versions": (upgrade(None, ("Sec-WebSocket-Version", "13")), 426),
    "no key": (upgrade({"Sec-WebSocket-Key": None}), 400),
    "an empty key": (upgrade({"Sec-WebSocket-Key": ""}), 400),
    "two keys": (upgrade(None, ("Sec-WebSocket-Key", KEY)), 400),
    "a key of 15 bytes": (
        upgrade({"Sec-WebSocket-Key": base64.b64encode(bytes(15)).decode()}),
        400,
    ),
    "a key of 17 bytes": (
        upgrade({"Sec-WebSocket-Key": base64.b64encode(bytes(17)).decode()}),
        400,
    ),
    "a key without padding": (upgrade({"Sec-WebSocket-Key": KEY.rstrip("=")}), 400),
    "a key with a stray character": (upgrade({"Sec-WebSocket-Key": "!" + KEY}), 400),
    "no Host": (upgrade({"Host": None}), 400),
    "a Host with a path": (upgrade({"Host": "a/b"}), 400),
    "a Host with a user": (upgrade({"Host": "me@a"}), 400),
    "a Host with a space": (upgrade({"Host": "a b"}), 400),
    "two Hosts": (upgrade(None, ("Host", "b d")), 400),
    "a subprotocol that is none": (upgrade({"Sec-WebSocket-Protocol": "a b"}), 400),
    "a quoted subprotocol": (upgrade({"Sec-WebSocket-Protocol": 'a, "b"'}), 400),
}


@pytest.mark.parametrize(("request_", "status"), _BAD_UPGRADES.values(), ids=_BAD_UPGRADES)
def test_check_upgrade_refuses_a_bad_one_with_its_status(request_: Request, status: int) -> None:
    """RFC 6455 section 4.2.1."""
    assert is_upgrade(request_)
    with pytest.raises(BadHead) as caught:
        check_upgrade(request_)
    assert caught.value.status == status


@pytest.mark.parametrize("value", [None, "", "h2c", "websockets", "web socket"])
def test_is_upgrade_leaves_other_upgrades_alone(value: str | None) -> None:
    assert not is_upgrade(upgrade({"Upgrade": value}))
