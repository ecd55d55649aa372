"""What is worth another try.

An attempt is worth another one if it failed for a reason that may pass: the network, a server that
is busy, a token that has expired.  Whatever else one of the user's callables raises is a fault of
the program, and ends it.  Errors of other libraries are known by their names: none is imported
here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from .._close_codes import CloseCode
from .._error_groups import causes
from .._errors import (
    ConnectFailed,
    ConnectionClosed,
    GaveUp,
    HandshakeRejected,
    ProxyRefused,
    TriowebError,
)
from .._redaction import without_secrets
from .._refusals import TryAgain

# RFC 9110: 408 and 425 ask for another try, RFC 6585: 429 for a later one.
_PASSING_STATUSES: Final = frozenset({408, 425, 429})
# Closes after which the same attempt would end the same way: the two sides do not understand each
# other (RFC 6455 section 7.4.1), or a range whose meaning is "do not come back": 3500-3999 in the
# Centrifuge protocol, 4500-4999 in the part of it that is for applications.
_FINAL_CODES: Final = frozenset(
    {1002, 1003, 1007, 1009, 1010, *range(3500, 4000), *range(4500, 5000)}
)
# Who asks is not known, or may not: RFC 9110 for the statuses; the IANA registry for 3000
# (Unauthorized) and 3003 (Forbidden); 1008 is what servers send that know no better code; 4401 and
# 4403 are those of graphql-ws, and of all who add 4000 to a status.
_REFUSING_STATUSES: Final = frozenset({401, 403})
_REFUSING_CODES: Final = frozenset({CloseCode.POLICY_VIOLATION, 3000, 3003, 4401, 4403})
# A server that waits for a token in a message, or for a slower pace, refuses within a minute: those
# would be refused again. What was there for longer had been let in, and the cause passes: its token
# has expired, or a pong was late (exchanges give a pong a minute and more).
_LET_IN_SECONDS: Final = 60.0

_TRIO_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
# (package, class): that a server could not be reached, or did not answer whole.
_NETWORK_ERRORS: Final = frozenset(
    {
        *(
            (package, name)
            for package in ("httpx", "httpcore")
            for name in ("NetworkError", "TimeoutException", "RemoteProtocolError", "ProxyError")
        ),
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("python_socks", "ProxyError"),
    }
)
# That a server did answer, and where such an error has the status.
_STATUS_ERRORS: Final = {
    ("httpx", "HTTPStatusError"): ("response", "status_code"),
    ("aiohttp", "ClientResponseError"): ("status",),
    ("requests", "HTTPError"): ("response", "status_code"),
    ("urllib", "HTTPError"): ("code",),
    # That of a proxy; SOCKS' own codes are far below.
    ("python_socks", "ProxyError"): ("error_code",),
}


def is_worth_retry(error: Exception) -> bool:
    """Whether another attempt may end better than the one that ended with *error*.

    This is what `Retry(worth=None)` goes by, except for refusals (401, 403, Close 1008 and
    their like): a client tries again after those where a token can be made anew, or where the
    connection had lasted for a minute.

    Returns:
        True for what says that the network failed, and for TryAgain.  False for a status that
        blames the request, a certificate that is not trusted, a close code that says that the
        peers do not understand each other, a refusal, and every error that is not known to be
        passing: that is a fault of the program.
    """
    match error:
        case ExceptionGroup():
            return all(map(is_worth_retry, causes(error)))
        case HandshakeRejected(status=status):
            return _is_passing_status(status)
        case ConnectionClosed(code=code):
            return code not in _FINAL_CODES and code not in _REFUSING_CODES
        case ProxyRefused(status=int(status)):
            return _is_passing_status(status)
        case ProxyRefused(denied=denied):
            return not denied
        case ConnectFailed(untrusted=untrusted):
            return not untrusted
        case TryAgain():
            return True
        case GaveUp(last=last):  # another client's
            return is_worth_retry(last)
        case _:
            return _is_passing(error)


def is_refusal(error: Exception) -> bool:
    """Whether *error* says that who asks is not known, or may not: what a new token may mend."""
    match error:
        case HandshakeRejected(status=status):
            return status in _REFUSING_STATUSES
        case ConnectionClosed(code=code):
            return code in _REFUSING_CODES
        case _:
            return False


def is_about_connecting(error: Exception) -> bool:
    """Whether *error* is about a connection, final or not; any other is a fault of the program
    and leaves as itself."""
    return all(
        isinstance(cause, (*_TRIO_ERRORS, OSError, TryAgain)) or is_worth_retry(cause)
        for cause in causes(error)
    )


def _is_passing_status(status: int) -> bool:
    return not 400 <= status < 500 or status in _PASSING_STATUSES


def _is_passing(error: Exception) -> bool:
    names = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    for name in names:
        if name in _STATUS_ERRORS:
            status: Any = error
            for attribute in _STATUS_ERRORS[name]:
                status = getattr(status, attribute, None)
            if isinstance(status, int):
                return _is_passing_status(status)
    if isinstance(error, (OSError, *_TRIO_ERRORS)):
        return True
    return not _NETWORK_ERRORS.isdisjoint(names)


def describe(error: Exception) -> str:
    """*error* in words, for the log; what a server sent cannot forge a line of it."""
    # Ours and the system's are sentences; of any other, its kind says more than its text.
    is_sentence = isinstance(error, (TriowebError, OSError)) and str(error)
    return ascii(without_secrets(str(error) if is_sentence else repr(error)))[1:-1]


class Judge:
    """Decides for one client whether to try again, with what an error alone does not tell.

    Args:
        worth: the user's own; it decides alone.
        renews: whether each attempt asks the user for something that may hold a token.
    """

    __slots__ = ("_renewed", "_renews", "_worth")

    def __init__(self, worth: Callable[[Exception], bool] | None, *, renews: bool) -> None:
        self._worth = worth
        self._renews = renews
        self._renewed = False

    def is_worth(self, error: Exception, *, lasted: float | None) -> bool:
        """Whether another attempt makes sense after the one that ended with *error*.

        Args:
            lasted: seconds for which there was a connection; None if there was none.
        """
        if self._worth is not None:
            return bool(self._worth(error))
        if not is_refusal(error):
            # The token was good for a connection.
            self._renewed = self._renewed and lasted is None
            return is_worth_retry(error)
        if lasted is not None and lasted >= _LET_IN_SECONDS:
            # If it is not let in again, that is told at once.
            self._renewed = False
            return True
        if self._renewed:
            return False
        self._renewed = self._renews
        return self._renewed
