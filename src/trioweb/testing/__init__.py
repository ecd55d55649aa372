"""What tests of WebSocket applications need: streams and networks in memory."""

from .._public import show_in as _show_in
from ._broker import MemoryBroker
from ._ends import NetworkStream
from ._faults import ActiveFault, Conditions, Fault, FaultKind, Plan
from ._helpers import no_leaks, open_pair, wait_until
from ._hosts import Host, NetworkListener, Who
from ._interrupts import interrupt_everywhere
from ._network import Network, NetworkStatistics
from ._peer import RawFrame, RawPeer
from ._rules import Chunk, Cut, Delay, Drop, Rule, RuleFailed, Verdict
from ._scheduling import deterministic
from ._strategies import fault_plans
from ._streams import MemoryStream, stream_pair
from ._trace import Trace, TraceEvent

__all__ = [
    "ActiveFault",
    "Chunk",
    "Conditions",
    "Cut",
    "Delay",
    "Drop",
    "Fault",
    "FaultKind",
    "Host",
    "MemoryBroker",
    "MemoryStream",
    "Network",
    "NetworkListener",
    "NetworkStatistics",
    "NetworkStream",
    "Plan",
    "RawFrame",
    "RawPeer",
    "Rule",
    "RuleFailed",
    "Trace",
    "TraceEvent",
    "Verdict",
    "Who",
    "deterministic",
    "fault_plans",
    "interrupt_everywhere",
    "no_leaks",
    "open_pair",
    "stream_pair",
    "wait_until",
]

_show_in(__name__, map(globals().get, __all__))
