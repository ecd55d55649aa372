"""Policy: what members may do with which topics, what they may cost, and what callbacks answer.

Frozen, and checked when made.  Nothing here knows how a rule is kept.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import field, replace
from typing import Any, Final, Literal, TypeAlias

from .._arguments import check_kind, check_sync, check_texts, wrong
from .._dataclass import dataclass
from .._policy import Retain, check_positive
from .._topics import Position

# Each has its own parameters; `open_topic_server` says which.
Callback: TypeAlias = Callable[..., Awaitable[Any]]

Recover: TypeAlias = Literal["all", "latest"]
_RECOVER: Final = ("all", "latest", None)


def _check_recover(owner: str, recover: object) -> None:
    if recover not in _RECOVER:
        raise ValueError(f"{owner}(recover={recover!r}): must be 'all', 'latest' or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRules:
    """What members may do with some topics.

    Args:
        retain: what each of these topics keeps of its past.
        recover: what somebody who comes back is given: "all" that was missed, or nothing and the
            news that something is missing; the "latest" publication alone, which whoever comes
            for the first time can have, too; None: nothing, and no positions are told.
        subscribe: whether members may subscribe.  The program itself always can, by
            `Welcome.topics` and `Member.subscribe`.
        publish, history, presence: whether those who are subscribed may publish, read what is
            retained, and see who else is subscribed.
        join_leave: whether those who are subscribed are told who comes and goes, if they ask or it
            was the program that subscribed them.
        anonymous: whether members without a token may subscribe where others have one
            (`open_topic_server(tokens=…)`).
    """

    retain: Retain = Retain()
    recover: Recover | None = "all"
    subscribe: bool = True
    publish: bool = False
    history: bool = False
    presence: bool = False
    join_leave: bool = False
    anonymous: bool = False

    def __post_init__(self) -> None:
        check_kind("TopicRules", "retain", self.retain, Retain)
        _check_recover("TopicRules", self.recover)
        for name in ("subscribe", "publish", "history", "presence", "join_leave", "anonymous"):
            check_kind("TopicRules", name, getattr(self, name), bool)


Topics: TypeAlias = Mapping[str, TopicRules] | Callable[[str], TopicRules | None]


def takes_anonymous(topics: Topics) -> bool:
    """Whether there may be a topic for members without a token."""
    return not isinstance(topics, Mapping) or any(rules.anonymous for rules in topics.values())


def rules_by_name(topics: Topics) -> Callable[[str], TopicRules | None]:
    """What finds the rules for a topic's name in what a user gave as *topics*."""
    if not isinstance(topics, Mapping):
        check_sync("open_topic_server", "topics(name)", topics)
        return topics
    table = dict(topics)
    for name, rules in table.items():
        check_kind("open_topic_server", "each key of topics", name, str)
        check_kind("open_topic_server", f"topics[{name!r}]", rules, TopicRules)
        if ":" in name:
            raise ValueError(
                f"open_topic_server(topics={{{name!r}: …}}): a key is what stands before the first "
                'colon of a name, "" for names without one, "*" for all others'
            )
    others = table.get("*")

    def find(name: str) -> TopicRules | None:
        namespace, colon, _ = name.partition(":")
        return table.get(namespace if colon else "", others)

    return find


def _check_ttl(owner: str, ttl: float | None) -> None:
    check_kind(owner, "ttl", ttl, int, float, optional=True)
    if ttl is not None and not math.isfinite(ttl):
        raise ValueError(f"{owner}(ttl={ttl!r}): must be a number of seconds, None for ever")


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What `on_connect` and `on_refresh` answer: who a member is.

    Args:
        user: its name, "" for nobody known.  It is the same on all connections of this user.
        info: what others are told beside that, with what the member publishes and in presence;
            anything that is JSON, None for nothing.
        data: what the client is told; JSON, or bytes.
        ttl: seconds until the client has to refresh its token; None: it never has to.
        topics: topics that it is subscribed to from the start, whether it asks or not.
    """

    user: str = ""
    info: Any = None
    data: Any = None
    ttl: float | None = None
    topics: Collection[str] = ()

    def __post_init__(self) -> None:
        check_kind("Welcome", "user", self.user, str)
        _check_ttl("Welcome", self.ttl)
        object.__setattr__(self, "topics", check_texts("Welcome", "topics", self.topics))


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What `on_subscribe` and `on_renew` answer: what a member may do with one topic.

    Args:
        info: what others are told of this subscription, beside `Welcome.info`.
        data: what the client is told; JSON, or bytes.
        ttl: seconds until the client has to renew this subscription; None: it never has to.
        recover, publish, history, presence, join_leave: as in TopicRules, instead of the topic's
            own; "rules" and None stand for these.
    """

    info: Any = None
    data: Any = None
    ttl: float | None = None
    recover: Recover | Literal["rules"] | None = "rules"
    publish: bool | None = None
    history: bool | None = None
    presence: bool | None = None
    join_leave: bool | None = None

    def __post_init__(self) -> None:
        _check_ttl("Granted", self.ttl)
        if self.recover != "rules":
            _check_recover("Granted", self.recover)
        for name in ("publish", "history", "presence", "join_leave"):
            check_kind("Granted", name, getattr(self, name), bool, optional=True)

    def applied_to(self, rules: TopicRules) -> TopicRules:
        """*rules* with what is granted instead."""
        own: dict[str, Any] = {
            name: value
            for name in ("publish", "history", "presence", "join_leave")
            if (value := getattr(self, name)) is not None
        }
        if self.recover != "rules":
            own["recover"] = self.recover
        return replace(rules, **own) if own else rules


# What the rules say, and no more.  One for all.
GRANTED: Final = Granted()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLimits:
    """Bounds on what one member may cost.

    Args:
        max_topics: subscriptions; as many as clients are known to ask for at once.
        max_name_bytes: of a topic's name.
        max_history: publications in one answer.
        max_calls: calls at work at one time; the next one waits, and with it all that the member
            has sent behind it.
        max_presence: members of a topic up to which clients are told who they are; beyond, how
            many they are.
        max_announced: members of a topic up to which is told who comes and goes: for each of
            them everybody is told.
        stale: seconds for a peer to say who it is.
        grace: seconds after a `ttl` has passed: clients ask for a new token when it has.
    """

    max_topics: int = 128
    max_name_bytes: int = 255
    max_history: int = 300
    max_calls: int = 64
    max_presence: int = 1000
    max_announced: int = 200
    stale: float = 10
    grace: float = 25

    def __post_init__(self) -> None:
        times = ("stale", "grace")
        check_positive(self, times, whole=False)
        names = [name for name in self.__slots__ if name not in times]
        check_positive(self, names, whole=True)


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client says when it connects, for `on_connect`.

    Attributes:
        token: "" for none.
        data: of the client's own; JSON, or bytes that are none.
        name, version: of the client's program.
        headers: what a browser says in place of headers.  Like all of this it is the client's word.
    """

    token: str = field(default="", repr=False)
    data: Any = field(default=None, repr=False)
    name: str = ""
    version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """What a client says when it subscribes, for `on_subscribe`.

    Attributes:
        topic: the name.
        token: "" for none.
        data: of the client's own; JSON, or bytes that are none.
        since: how far it has the topic; None if it does not say.
    """

    topic: str
    token: str = field(default="", repr=False)
    data: Any = field(default=None, repr=False)
    since: Position | None = None


def check_answer(call: str, answer: object, kind: type) -> None:
    """Raise TypeError unless *answer*, which *call* has returned, is a *kind*."""
    if not isinstance(answer, kind):
        raise wrong(call.partition("(")[0], "what it returns", f"a {kind.__name__}", answer)
