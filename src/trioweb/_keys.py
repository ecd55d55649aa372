"""What peers show to be let in: API keys and tokens, where they stand, and how fast one may guess.

NOTE: Neither stands in an error or in the log; lines of a file are told by their numbers.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

import trio

from ._protocol._http import Address, Request
from ._refusals import Reject

MIN_KEY_CHARS: Final = 16
# A page has it from whoever signs its users in, as an HttpOnly cookie: no script can read that.
TOKEN_COOKIE: Final = "trioweb_token"
# One guess a second for each host is no way to find a key.  A host that is further behind than this
# is told at once.
_PACE_SECONDS: Final = 1.0
_MAX_WAIT_SECONDS: Final = 10.0
_MAX_HOSTS: Final = 10_000


class BadKeys(ValueError):
    """What should be keys is not; the text names the line and never a key."""


def parse_keys(text: str, where: str, *, min_chars: int = MIN_KEY_CHARS) -> tuple[bytes, ...]:
    """The keys in *text*, one a line; several are for the time in which one replaces another.

    Raises:
        BadKeys: there is none, or one that could be guessed or not be sent.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip()
        if not key:
            continue
        if len(key) < min_chars:
            raise BadKeys(f"{where}: line {number}: a key has at least {min_chars} characters")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise BadKeys(f"{where}: line {number}: a key is printable ASCII without blanks")
        keys.append(key.encode("ascii"))
    if not keys:
        raise BadKeys(f"{where}: no key in it")
    return tuple(keys)


def bearer_of(request: Request) -> str:
    """What *request* brings in `Authorization: Bearer`; "" for nothing."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def token_of(request: Request, cookie: str) -> str:
    """The token that *request* brings, in that header or else in the *cookie*; "" for none.

    Never in the query: that stands in the logs of proxies and in the history of browsers.
    """
    if given := bearer_of(request):
        return given
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == cookie:
            return value
    return ""


def is_one_of(given: str, keys: Iterable[bytes]) -> bool:
    """Whether *given* is one of *keys*."""
    offered = given.encode("utf-8", "replace")
    # All of them, so that how long it takes does not tell which it was.
    known = [hmac.compare_digest(offered, key) for key in keys]
    return any(known)


class Pace:
    """How fast each host is told that it may not enter."""

    def __init__(self) -> None:
        # When each host may be told next, the longest ago first.
        self._next: OrderedDict[str, float] = OrderedDict()

    async def wait(self, remote: Address) -> None:
        """Wait until the host of *remote* may be told.

        Raises:
            Reject: it asks too fast: 429.
        """
        host = _host_of(remote)
        now = trio.current_time()
        due = max(now, self._next.pop(host, now))
        if due - now > _MAX_WAIT_SECONDS:
            self._next[host] = due
            raise Reject(429, "too many guesses\n", [("Retry-After", str(int(due - now)))])
        self._next[host] = due + _PACE_SECONDS
        if len(self._next) > _MAX_HOSTS:
            self._next.popitem(last=False)
        await trio.sleep_until(due)


def _host_of(remote: Address) -> str:
    """What guesses are counted by: of IPv6, the network that one peer usually has."""
    host = remote[0] if isinstance(remote, tuple) else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else address.exploded[:19]
