"""What tests of WebSocket applications need: streams and networks in memory."""

from ._faults import ActiveFault, Conditions, Fault, Plan
from ._hosts import Host, NetworkListener, NetworkStream
from ._network import Network, NetworkStatistics
from ._streams import MemoryStream, stream_pair
from ._trace import Trace, TraceEvent

__all__ = [
    "ActiveFault",
    "Conditions",
    "Fault",
    "Host",
    "MemoryStream",
    "Network",
    "NetworkListener",
    "NetworkStatistics",
    "NetworkStream",
    "Plan",
    "Trace",
    "TraceEvent",
    "stream_pair",
]
