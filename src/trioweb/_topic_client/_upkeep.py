"""The task behind a subscription: it subscribes, and again, and keeps the token fresh."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from .._centrifuge import _schema as wire
from .._centrifuge._codes import ErrorCode, is_retried
from .._centrifuge._values import optional_payload_of
from .._client import is_worth_retry
from .._errors import ConnectionClosed, Refused
from ._following import Following, State
from ._line import Line
from ._token import Token

if TYPE_CHECKING:
    from ._session import Session


class Upkeep:
    """Keeps a topic followed.

    Args:
        data: said along with each subscription.
    """

    def __init__(self, session: Session, following: Following, token: Token, data: Any) -> None:
        self._session = session
        self._following = following
        self._token = token
        self._data = data
        # Since it was last subscribed for long enough.
        self._failures = 0

    async def run(self) -> None:
        """Until the topic is no longer followed."""
        following = self._following
        while following.state is not State.OVER:
            if following.is_sent_away:
                following.is_sent_away = False
                await self._nap()
            elif following.state is State.WAITING:
                line = await self._session.next_line()
                if line is None:
                    return
                await self._try(line)
            else:
                with trio.move_on_at(following.renew_at):
                    await following.wait_change()
                if following.state is not State.SUBSCRIBED:
                    if not following.is_sent_away:
                        self._failures = 0
                elif following.renew_at <= trio.current_time():
                    await self._renew()

    async def _try(self, line: Line) -> None:
        """Subscribe, or wait until that may be tried again."""
        following = self._following
        try:
            token = await self._token.get()
        except Exception as exc:
            if not is_worth_retry(exc):
                raise
            await self._nap()
            return
        if following.state is not State.WAITING or self._session.line is not line:
            return
        data = optional_payload_of(line.codec, self._data)
        request = msgspec.structs.replace(following.ask(line), token=token, data=data)
        try:
            await line.ask(request, settle=lambda result: following.begin(line, request, result))
        except ConnectionClosed:
            await self._session.next_line(line)
        except Refused as exc:
            await self._refused(exc)

    async def _refused(self, error: Refused) -> None:
        has_expired = error.code == ErrorCode.TOKEN_EXPIRED
        if not is_retried(error.code, error.temporary) or (
            has_expired and not self._token.is_renewable
        ):
            self._following.finish(lambda: Refused(error.code, error.message, error.temporary))
            return
        self._following.try_again()
        if has_expired:
            self._token.drop()
            if not self._failures:
                self._failures = 1
                return
        await self._nap()

    async def _nap(self) -> None:
        self._failures += 1
        with trio.move_on_after(self._session.delay(self._failures)):
            while self._following.state is State.WAITING:
                await self._following.wait_change()

    async def _renew(self) -> None:
        """Give the server a new token; what goes wrong, its own deadline for it ends."""
        line = self._following.line
        assert line is not None
        self._following.renew_at = math.inf
        if not self._token.is_renewable:
            return
        self._token.drop()
        try:
            token = await self._token.get()
            result = await line.ask(
                wire.SubRefreshRequest(topic=self._following.topic, token=token)
            )
        except ConnectionClosed:
            return
        except Exception as exc:
            if not isinstance(exc, Refused) and not is_worth_retry(exc):
                raise
            if not isinstance(exc, Refused) or is_retried(exc.code, exc.temporary):
                self._failures += 1
                self._following.renew_at = trio.current_time() + self._session.delay(self._failures)
            return
        self._failures = 0
        self._following.expires(line, result.ttl if result.expires else None)
