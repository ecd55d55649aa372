"""What comes of an error: what a member is told, and whether it may stay."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._centrifuge._replies import Reply
from .._centrifuge._schema import Error
from .._error_groups import single_cause
from .._errors import BrokerFull, HubFull, Unpublished
from .._logs import log
from .._refusals import Dismiss, Refuse

if TYPE_CHECKING:
    from ._member import Member

logger = logging.getLogger("trioweb.topics")


def error_reply(id: int, refused: Refuse) -> Reply:
    """The reply to the command *id* that was *refused*."""
    message = refused.message
    if not message:
        known = next((code for code in ErrorCode if code == refused.code), None)
        message = "refused" if known is None else known.message
    return Reply(id=id, error=Error(refused.code, message, refused.temporary))


def failure_of(error: Exception, member: Member) -> Refuse | None:
    """What *member* is told of *error*, which came out of what was done for it.

    Returns:
        None: its connection is over, or is closed now.
    """
    cause = single_cause(error)
    match cause:
        case Refuse():
            return cause
        case Dismiss():
            member._dismissed(cause)
            return None
        case HubFull() | BrokerFull() | Unpublished():
            return Refuse(ErrorCode.INTERNAL, temporary=True)
        case _ if member.connection.link.is_own_end(error):
            return None
        case trio.ClosedResourceError() if member._server.is_closed:
            member._end(DisconnectCode.SHUTDOWN)
            return None
    text = "error in what was done for %r"
    log(logger, logging.ERROR, member.connection, text, member, error=error)
    return Refuse(ErrorCode.INTERNAL, temporary=True)
