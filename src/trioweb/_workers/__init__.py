"""The workers of one machine: processes that share their topics through their parent.

The parent is the engine of the hubs in its workers, over a socketpair to each.  Where they have
another broker, it only starts, replaces and ends them.
"""

from ._supervisor import Start, StartFailed, Supervisor
from ._switchboard import Switchboard, open_switchboard
from ._worker import WorkerProcess
from ._worker_end import Order, WorkerBroker, WorkerEnd, open_worker

__all__ = [
    "Order",
    "Start",
    "StartFailed",
    "Supervisor",
    "Switchboard",
    "WorkerBroker",
    "WorkerEnd",
    "WorkerProcess",
    "open_switchboard",
    "open_worker",
]
