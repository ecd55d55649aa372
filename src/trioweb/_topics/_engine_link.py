"""How a hub is joined to others: what a broker promises, and one connection to its engine.

Apart from the node that uses it, which a hub without a broker need not have imported.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol

from .._dataclass import dataclass
from .._policy import Outbox, Retry

if TYPE_CHECKING:
    from ._commands import Answer, Command, Pushed


class EngineLost(Exception):
    """The connection to an engine could not be made, or has ended.  Never leaves a node."""


class EngineGone(EngineLost):
    """There will never be a connection to the engine again."""


class EngineLink(Protocol):
    """One connection to an engine.

    Attributes:
        id: what the engine calls it.
    """

    id: str

    def send(self, command: Command, answered: Callable[[Answer], None]) -> None:
        """Have the engine do *command*, after those before it; call *answered* with its answer,
        unless the connection is lost before."""
        ...

    async def wait_lost(self) -> str:
        """Wait until the connection is lost; return why."""
        ...


def ignore(answer: object) -> None:
    """Hear an answer that says nothing: the command is done, or it did not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPolicy:
    """What all brokers with an engine do the same.

    Args:
        durable: the engine loses nothing when it is restarted or another process takes its place,
            so positions live on.  Where that is not so, a restart ends the epoch of each topic,
            since nobody can tell what is missing.
        outbox: bounds of what waits for the engine; beyond them `publish` raises BrokerFull.
        timeout: seconds after which a silent engine is asked, and after as many more given up.
        retry: when the engine is connected to again.
        linger: seconds for which a topic that nobody uses is still received.
        flush_timeout: seconds for which leaving the hub's block waits for answers.
    """

    durable: bool = False
    outbox: Outbox = Outbox(max_messages=10_000, max_bytes=16 * 2**20, full="raise")
    timeout: float = 5
    retry: Retry = Retry(initial=0.1, maximum=5)
    linger: float = 10
    flush_timeout: float = 5


class Broker(Protocol):
    """What joins hubs: `open_hub(broker=…)`.  Several hubs may share one.

    Attributes:
        policy: what its nodes go by.
    """

    @property
    def policy(self) -> BrokerPolicy: ...

    def connect(
        self, node: str, fence: str, receive: Callable[[Pushed], None]
    ) -> AbstractAsyncContextManager[EngineLink]:
        """Connect *node* to the engine.

        Args:
            fence: the id of this node's connection before, "" for none: when this block is
                entered, nothing that it still carried will be done.
            receive: called with what is published, and with who comes and goes.

        Raises:
            EngineLost: it cannot be done now.
            EngineGone: nor later, so that the end of a hub waits for no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """What a hub has had to do with its broker.

    Attributes:
        connected: whether there is a connection to the engine; to each, where there are several.
        waiting: publications that are not answered yet.
        attached: topics that are received.
        refused, restarts, attempts, connects: publications that the engine refused, lives of topics
            that ended here while they were received, attempts to connect, connections made; so far.
    """

    connected: bool
    waiting: int
    attached: int
    refused: int
    restarts: int
    attempts: int
    connects: int

    @property
    def state(self) -> Literal["connecting", "live"]:
        """What `connected` says, in a word."""
        return "live" if self.connected else "connecting"
