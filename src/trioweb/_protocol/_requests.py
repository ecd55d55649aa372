"""A request's head, read: whether it can be taken, what it says, and what its body will be.

A head comes whole and clean (`_heads` reads it).  What is taken here h11 takes, too, and reads the
same, which a test holds; its own parser takes ten times as long, a sixth of what a connection costs
from its beginning to its end.

What is wrong with a head is said in words of ours.  None of its bytes is repeated: wherever a
line is malformed, anything may stand in it, a token too, and the words reach a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from .._arguments import is_token
from ._http import BLANKS, ENCODING, Address, BadHead, Request

_HEAD_END: Final = b"\r\n\r\n"
# RFC 9112 section 3.  Of the target only that much is sure which all its forms have.
_REQUEST_LINE: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])")
# No body is longer than 64 bits can say.
_LENGTH: Final = r"[0-9]{1,20}"
# RFC 9112 section 3.2.2: what clients ask proxies for, and servers must take, too; but neither a
# user and a password (RFC 9110 section 4.2.4) nor a fragment.
_ABSOLUTE: Final = r"(?i)(?:https?|wss?)://(?P<authority>[^/?#@]+)(?P<resource>(?:[/?][^#]*)?)"


def parse_request(
    head: bytes,
    *,
    remote: Address,
    local: Address,
    secure: bool = False,
    certificate: Mapping[str, Any] | None = None,
) -> Request:
    """Parse and check a request's head; the other arguments are as for `Request`.

    Raises:
        BadHead: it is not one that can be answered otherwise.
    """
    line, *lines = head[: -len(_HEAD_END)].decode(ENCODING).split("\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadHead(400, "not an HTTP/1.1 request: illegal request line")
    method, target, version = match.groups()
    if not version.startswith("1."):
        raise BadHead(505, "only HTTP/1 is spoken here")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        # What goes on with the line before begins with a blank, which no name has: RFC 9112 section
        # 5.2 has a server refuse that, as not everybody on the way understands it.
        if not colon or not is_token(name):
            raise BadHead(400, "not an HTTP/1.1 request: illegal header line")
        headers.append((name.lower(), value.strip(BLANKS)))
    names = [name for name, _ in headers]
    # RFC 9112 section 3.2.
    if names.count("host") > 1 or ("host" not in names and version >= "1.1"):
        raise BadHead(400, "not an HTTP/1.1 request: it must have one Host")
    _check_length(headers, names, version)
    # The one is for proxies, and what the other would send back may be a page's secrets.
    if method in ("CONNECT", "TRACE"):
        raise BadHead(501, "CONNECT and TRACE are not answered here")
    # RFC 6455 section 4.2.1.  In plain HTTP 1.0 is welcome: load balancers ask for health with it.
    if "upgrade" in names and version < "1.1":
        raise BadHead(400, "an upgrade needs HTTP/1.1")
    # RFC 9112 section 3.2.4: it is for the server as a whole.
    is_for_all = method == "OPTIONS" and target == "*"
    if not target.startswith("/") and not is_for_all:
        match = re.fullmatch(_ABSOLUTE, target)
        if match is None:
            raise BadHead(400, "request target must be a path, or a URL of this host")
        # RFC 9112 section 3.2.2: what the Host field says is ignored then.
        headers = [pair for pair in headers if pair[0] != "host"] + [("host", match["authority"])]
        resource = match["resource"]
        if method == "OPTIONS" and not resource:
            target = "*"
        else:
            target = resource if resource.startswith("/") else f"/{resource}"
    return Request(
        method,
        target,
        headers,
        remote=remote,
        local=local,
        secure=secure,
        certificate=certificate,
        version=version,
    )


def _check_length(headers: list[tuple[str, str]], names: list[str], version: str) -> None:
    """Check that nobody can be in doubt of how long the body of a request is: what one reads of it
    less than a proxy before him would be taken for another request.

    Source: RFC 9112 section 6.3, and stricter: a length that is repeated may be so by a proxy that
    did not understand it, and HTTP/1.0 knows no chunks.
    """

    def values(wanted: str) -> list[str]:
        # Most requests have none of these.
        return [value for name, value in headers if name == wanted] if wanted in names else []

    lengths, codings = values("content-length"), values("transfer-encoding")
    if len(lengths) > 1 or (lengths and not re.fullmatch(_LENGTH, lengths[0])):
        raise BadHead(400, "Content-Length must be one number")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise BadHead(501, "no Transfer-Encoding but chunked is understood")
    if codings and (lengths or version < "1.1"):
        raise BadHead(400, "no body has both lengths, nor chunks in HTTP/1.0")
    # RFC 9110 section 10.1.1; in HTTP/1.0 it means nothing.
    expected = values("expect") if version >= "1.1" else []
    if any(each.lower() != "100-continue" for each in expected):
        raise BadHead(417, "nothing but 100-continue can be expected")


def body_length(request: Request) -> int | None:
    """How long the body of *request* is; None if it comes in chunks."""
    if request.headers.get_all("transfer-encoding"):
        return None
    return int("".join(request.headers.get_all("content-length")) or 0)


def expects_continue(request: Request) -> bool:
    """Whether the peer waits for 100 before it sends the body."""
    return request.version >= "1.1" and "expect" in request.headers


def may_persist(request: Request) -> bool:
    """Whether another request may follow on the same stream, as far as the peer is concerned.

    HTTP/1.0 has something of the kind, too, which proxies that do not know of it pass on.
    """
    closes = "close" in (token.lower() for token in request.headers.tokens("connection"))
    return request.version >= "1.1" and not closes
