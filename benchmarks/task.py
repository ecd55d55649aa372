"""What a measurement is told: the one thing that a server and its load both know."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Task:
    """One measurement, of the kind that its name says; each kind uses what it needs.

    The kinds, and what the two processes do:
        publish: the server publishes in ticks, the load counts what arrives
        latency: the server publishes on a schedule, the load reads the time in each message
        stalled: likewise, beside subscribers that stopped reading
        receive: the load sends without a pause, the server reads
        echo: each connection waits for the echo of its message, then sends the next
        connections: the load opens connections, and closes them again
        heartbeats: the load answers pings
        members: publish, through one of our doors after the other
        herd: the load's members come back at once, and recover what they missed
        member-memory: memory, likewise
        storm: likewise, while very many ask for another topic's history at once
        broker: no load; a hub and a bare loop publish to a Redis, and attach to its topics
        hub-memory: no load; a hub is filled beyond its bound
        memory: the load opens connections in steps, the server looks at its memory at each
        client: the load sends without a pause, one client reads
        import: no load; interpreters import the peer
    """

    kind: str
    connections: int = 1
    size: int = 64  # bytes of a message
    burst: int = 1  # publications at once
    seconds: float = 0.3  # of CPU time for a cost, of the clock's for everything else
    rate: int = 100  # bursts in a second, of those on a schedule
    # In all, of `stalled` and `hub-memory`; of the history, of `storm` and `herd`.
    publications: int = 0
    returning: int = 0  # peers that come back at once, of `storm` and `herd`
    stalled: int = 0  # subscribers
    tls: bool = False
    deflate: bool = False  # and messages are JSON
    resilient: bool = False  # our client with a supervisor
    door: str = ""  # to ours: plain, json, protobuf or events; "" where that is not the question
    many: bool = False  # messages are received all at once, with what that needs of ours
    broker: str = ""  # the URL of a Redis that joins the hub with others
    # Where things are on this machine; the measurement fills it in.
    scratch: str = ""  # a directory, with certificate.pem and authority.pem if it is TLS
    load_core: int = 0

    @property
    def retained(self) -> int:
        """How many publications the topic of `stalled` retains."""
        return self.publications * 3 // 5

    @property
    def passing(self) -> tuple[int, int]:
        """Of the publications of `stalled`: while all have what they wait for, and after that."""
        first = self.publications // 5
        return first, self.publications - first

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        return cls(**json.loads(text))
