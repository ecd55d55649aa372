"""Publishing by POST, for programs in other languages and for curl: what a body is.

A body is a message, or JSON lines, each of which is one; all of it is checked before anything is
published.  `Idempotency-Key` makes it once: whoever got no answer sends it again.
"""

from __future__ import annotations

import json
from typing import Final, NoReturn

import trio

from ._dataclass import dataclass
from ._errors import BrokerFull, HubFull, Unpublished
from ._policy import Message
from ._protocol._http import Request, Response
from ._refusals import Reject
from ._topics import Kind, Publisher, Topic
from ._topics._details import describe

_JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
# What `curl -d` says of a body, whatever it is.
_TEXT: Final = ("", "application/x-www-form-urlencoded")
_MAX_LINES: Final = 10_000
# A line takes about ten microseconds.
_LINES_PER_CHECKPOINT: Final = 64
# For what a broker has not confirmed by then: longer than it takes to come back to one that stood
# still for a moment, shorter than common proxies wait.
_CONFIRM_SECONDS: Final = 20
# As much as fits into a key of a publication with the number of a line behind it.
_MAX_KEY_CHARS: Final = 240


@dataclass(frozen=True, slots=True)
class _Item:
    message: Message
    kind: Kind
    key: str | None


async def publish_posted(request: Request, topic: Topic, publisher: Publisher | None) -> Response:
    """Publish the body of *request* as *publisher*, to whom its key is confined.

    Raises:
        Reject: it cannot be: 400, 413, 415, 422 for a key that was used for something else, or 503.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = _key_of(request)
    body = await request.body()
    items = await _lines(body, key) if kind in _JSON_LINES else [_message(body, kind, key)]
    for item in items:
        _check_once(topic, item, publisher)
    receipts = []
    try:
        for number, item in enumerate(items, 1):
            posted = topic.post(item.message, kind=item.kind, key=item.key, publisher=publisher)
            receipts.append(posted)
            if number % _LINES_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
        with trio.fail_after(_CONFIRM_SECONDS):
            for receipt in receipts:
                position = await receipt.confirmed()
    except trio.TooSlowError:
        text = "not confirmed: it may still be published, so send it again with the same key\n"
        raise Reject(503, text, [("Retry-After", "5")]) from None
    except (HubFull, BrokerFull):
        raise Reject(503, "no room, come back later\n", [("Retry-After", "5")]) from None
    except Unpublished:
        raise Reject(503, "it was refused, come back later\n", [("Retry-After", "5")]) from None
    told: dict[str, object] = {"offset": position.offset, "epoch": position.epoch}
    if kind in _JSON_LINES:
        told["count"] = len(items)
    return Response(200, json.dumps(told) + "\n", [("Content-Type", "application/json")])


def _key_of(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    # As a string of RFC 9651, in quotes, or as it is.
    key = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not 0 < len(key) <= _MAX_KEY_CHARS:
        raise Reject(400, f"Idempotency-Key has 1 to {_MAX_KEY_CHARS} characters\n")
    return key


def _message(body: bytes, kind: str, key: str | None) -> _Item:
    if kind == "application/octet-stream":
        return _Item(body, "bytes", key)
    is_json = kind == "application/json" or kind.endswith("+json")
    if not (is_json or kind in _TEXT or kind.startswith("text/")):
        raise Reject(
            415,
            "Content-Type is text/plain, application/json, application/x-ndjson (JSON lines) or "
            "application/octet-stream\n",
        )
    text = _text(body, "the body")
    if is_json:
        _check_json(text, "the body")
    return _Item(text, "json" if is_json else "text", key)


async def _lines(body: bytes, key: str | None) -> list[_Item]:
    lines = body.removesuffix(b"\n").split(b"\n") if body.strip() else []
    if not 1 <= len(lines) <= _MAX_LINES:
        raise Reject(400, f"from 1 to {_MAX_LINES} lines are published at a time\n")
    items = []
    for number, line in enumerate(lines, 1):
        where = f"line {number}"
        text = _text(line.removesuffix(b"\r"), where)
        _check_json(text, where)
        items.append(_Item(text, "json", None if key is None else f"{key}:{number}"))
        if number % _LINES_PER_CHECKPOINT == 0:
            await trio.lowlevel.checkpoint()
    return items


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Reject(400, f"{where} is not UTF-8\n") from None


def _check_json(text: str, where: str) -> None:
    def no_constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise Reject(400, f"{where} is not JSON\n") from None


def _check_once(topic: Topic, item: _Item, publisher: Publisher | None) -> None:
    """Check that what *publisher* published with this key, if it is still there, is the same."""
    if item.key is None:
        return
    message, details = describe(item.message, item.key, None, publisher, item.kind)
    offset = topic._log.published(details)
    if offset is not None:
        before = topic._log[offset]
        if before.message != message or before.kind != _kind_of(message, details.is_json):
            raise Reject(422, "this Idempotency-Key was used for something else\n")


def _kind_of(message: object, is_json: bool) -> Kind:
    return "json" if is_json else "text" if isinstance(message, str) else "bytes"
