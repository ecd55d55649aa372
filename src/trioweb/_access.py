"""Who may do what with which topic: the one policy that every door of `trioweb serve` asks.

A door is a way to a topic: a WebSocket, the Centrifuge protocol, a stream of events, a POST, the
page.  What a peer may do there is what the rules of the topic and its token say, and is the same at
every door.  Nothing here knows how a door is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import trio

from ._centrifuge._codes import ErrorCode
from ._dataclass import dataclass
from ._keys import TOKEN_COOKIE, Pace, bearer_of, is_one_of, token_of
from ._policy import Retain
from ._protocol._http import Request
from ._refusals import Dismiss, Refuse, Reject
from ._topic_server._rules import ConnectRequest, TopicRules, Welcome, rules_by_name
from ._topic_server._tokens import Tokens
from ._topics import Publisher

FOR_EVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a token.

    Attributes:
        welcome: what the token says.
        until: when that ends, in Trio's time.
    """

    welcome: Welcome
    until: float

    def __str__(self) -> str:
        return self.welcome.user


@dataclass(frozen=True, slots=True)
class Permit:
    """What a peer may do with a topic that it may subscribe to.

    Attributes:
        rules: those of the topic.
        until: when it ends, in Trio's time.
        publisher: whose is what it publishes: that of its token's user; None for whoever has none,
            or an API key, which is the program's own.
    """

    rules: TopicRules
    until: float = FOR_EVER
    publisher: Publisher | None = None

    @property
    def lifetime(self) -> float | None:
        """Seconds until it ends; None for ever."""
        return None if self.until == FOR_EVER else max(0.0, self.until - trio.current_time())

    def history(self, most: int) -> int:
        """How many past messages a newcomer gets, where that is *most* by the rules."""
        return max(most if self.rules.history else 0, 1 if self.rules.recover == "latest" else 0)


def open_rules(retain: Retain) -> dict[str, TopicRules]:
    """The rules where nobody has said any: everybody may do everything."""
    rules = TopicRules(retain=retain, publish=True, history=True, presence=True, join_leave=True)
    return {"": rules, "*": rules}


class Access:
    """The policy.

    Args:
        topics: the rules; as for `open_topic_server`.
        keys: API keys, whose holders publish to every topic, whatever its rules.
        tokens: what tokens are checked with; None if nobody needs one.
        cookie: the name of the cookie in which pages have theirs.

    Attributes:
        keys: those that count from now on.
        tokens, topics: as given.
        pace: how fast one may guess.
    """

    def __init__(
        self,
        topics: Mapping[str, TopicRules],
        *,
        keys: Iterable[bytes] = (),
        tokens: Tokens | None = None,
        cookie: str = TOKEN_COOKIE,
    ) -> None:
        self.keys = tuple(keys)
        self.tokens = tokens
        self.replace_topics(topics)
        self._cookie = cookie
        self.pace = Pace()

    def replace_topics(self, topics: Mapping[str, TopicRules]) -> None:
        """Go by *topics* from now on; as for `Access`."""
        self._find_rules = rules_by_name(topics)
        self.topics = topics

    def rules_of(self, name: str) -> TopicRules | None:
        """The rules of the topic *name* by now; None if there can be no such topic."""
        return self._find_rules(name)

    @property
    def takes_posts(self) -> bool:
        """Whether there is anybody who may publish by POST: a cross-site form can be sent by any
        page, so that where nobody has to say who they are, nobody may."""
        return bool(self.keys) or self.tokens is not None

    def caller(self, request: Request) -> Caller | None:
        """Who has sent *request*, by its token; None if there is no valid one."""
        if self.tokens is None:
            return None
        token = token_of(request, self._cookie)
        if not token:
            return None
        try:
            welcome = self.tokens.of_connection(token)
        except (Refuse, Dismiss):
            return None
        ttl = welcome.ttl
        return Caller(welcome, FOR_EVER if ttl is None else trio.current_time() + ttl)

    async def subscribe(self, request: Request, name: str) -> Permit:
        """What *request* permits somebody who wants to be subscribed to the topic *name*.

        Raises:
            Reject: nothing: 401, 403 or 404, or 429 for 401 too often.

        Checkpoint: where it takes a while to say no.
        """
        rules, caller = self.rules_of(name), self.caller(request)
        if caller is None and not self._is_open(rules):
            await self._refuse(request)
        if rules is None:
            raise Reject(404, "There is no such topic.\n")
        if not rules.subscribe and (caller is None or name not in caller.welcome.topics):
            raise Reject(403, "Subscribing to this topic is not allowed.\n")
        if caller is None:
            return Permit(rules)
        return Permit(rules, caller.until, Publisher(caller.welcome.user))

    async def publish(self, request: Request, name: str) -> Permit:
        """Likewise for somebody who wants to publish to it, and is not subscribed."""
        if is_one_of(bearer_of(request), self.keys):
            rules = self.rules_of(name)
            if rules is None:
                raise Reject(404, "There is no such topic.\n")
            return Permit(rules)
        if self.tokens is None:
            await self._refuse(request)
        permit = await self.subscribe(request, name)
        if not permit.rules.publish:
            raise Reject(403, "Publishing to this topic is not allowed.\n")
        return permit

    async def enter(self, request: Request) -> None:
        """Check that whoever has sent *request* may see what belongs to no topic.

        Raises:
            Reject: as `subscribe`.
        """
        if self.tokens is None or is_one_of(bearer_of(request), self.keys):
            return
        if self.caller(request) is None:
            await self._refuse(request)

    def welcome(self, caller: Caller, asked: ConnectRequest) -> Welcome | None:
        """How a member is welcome who has brought its token with the upgrade; None if it has
        brought another one since, which counts then.

        Raises:
            Refuse: there is no such topic as the token names.
        """
        if asked.token:
            return None
        known = caller.welcome
        if any(self.rules_of(topic) is None for topic in known.topics):
            raise Refuse(ErrorCode.UNKNOWN_TOPIC)
        # Without a `ttl`: its connection ends with the token, and it comes back with another.
        return Welcome(user=known.user, info=known.info, topics=known.topics)

    def _is_open(self, rules: TopicRules | None) -> bool:
        """Whether nobody needs a token there."""
        return self.tokens is None or (rules is not None and rules.anonymous)

    async def _refuse(self, request: Request) -> None:
        await self.pace.wait(request.remote)
        what = "an API key" if self.tokens is None else "a valid token"
        raise Reject(401, f"{what} is needed\n", [("WWW-Authenticate", "Bearer")])
