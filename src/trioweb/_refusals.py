"""How a program says no: what it raises from the callables that it gives to trioweb.

One that could not be told to the peer is an error when it is made.  The tree of all errors
stands in `_errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ._arguments import check_headers, check_kind
from ._errors import TriowebError


class Reject(TriowebError):
    """Raise this from `admit` to refuse a request before it is upgraded.

    Args:
        status: an HTTP status from 300 to 599.
        body: what a person reads; text is sent as UTF-8.
        headers: further (name, value) pairs, for instance ("Retry-After", "5"), or a mapping.

    Raises:
        TypeError, ValueError: it could not be sent.
    """

    def __init__(
        self,
        status: int = 403,
        body: str | bytes = b"",
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
    ) -> None:
        check_kind("Reject", "status", status, int)
        if not 300 <= status <= 599:
            raise ValueError(f"Reject(status={status!r}): must be an HTTP status from 300 to 599")
        check_kind("Reject", "body", body, str, bytes, bytearray)
        super().__init__(status)
        self.status = status
        self.body = body.encode() if isinstance(body, str) else bytes(body)
        self.headers = check_headers("Reject", headers)


class Refuse(TriowebError):
    """Raise this from a callable of a topic server to refuse what the client has asked for.

    Args:
        code: from 100 to 1999; 400 to 1999 are for applications, what is below is the protocol's.
        message: for people; by default the code's own.
        temporary: whether the client is to try again by itself.

    Raises:
        TypeError, ValueError: it could not be told.
    """

    def __init__(self, code: int, message: str = "", temporary: bool = False) -> None:
        check_kind("Refuse", "code", code, int)
        if not 100 <= code <= 1999:
            raise ValueError(f"Refuse(code={code!r}): must be from 100 to 1999")
        check_kind("Refuse", "message", message, str)
        super().__init__(code, message, temporary)
        self.code = int(code)
        self.message = message
        self.temporary = bool(temporary)

    def __str__(self) -> str:
        return f"refused ({self.code}{', ' + repr(self.message) if self.message else ''})"


class Dismiss(TriowebError):
    """Raise this from a callable of a topic server to end the client's connection.

    Args:
        code: from 3000 to 4999; 4000 to 4999 are for applications.  A client comes back after 3000
            to 3499 and 4000 to 4499, and stays away after the others.
        reason: for people; by default the code's own.

    Raises:
        TypeError, ValueError: it could not be told.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        check_kind("Dismiss", "code", code, int)
        if not 3000 <= code <= 4999:
            raise ValueError(f"Dismiss(code={code!r}): must be from 3000 to 4999")
        check_kind("Dismiss", "reason", reason, str)
        super().__init__(code, reason)
        self.code = int(code)
        self.reason = reason

    def __str__(self) -> str:
        return f"dismissed ({self.code}{', ' + repr(self.reason) if self.reason else ''})"


class TryAgain(TriowebError):
    """Raise this from `url`, `headers`, `subprotocols`, `dial` or `on_open` of a client to say
    that this attempt has failed and another may succeed.

    For what the client cannot know to be passing: a snapshot that is too old, a server that says
    in its own words that it is busy.  The attempt counts as any other that failed: `Retry` says
    when the next one comes, and `Retry.worth` is asked.
    """
