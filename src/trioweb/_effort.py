"""The work of calls that cannot let others run, on account of the next call that can.

`publish` never waits, and a loop that receives what has arrived need not: together they would hold
up everybody else for as long as a peer's flood lasts.  So the one counts what it does, and the
other lets others run when that has come to a turn.  A receiver that does nothing of the kind goes
on, as a turn of the scheduler costs as much as ten messages.

It is work that is counted and not time, so that a simulation with a seed stays what it is.
"""

from __future__ import annotations

from typing import Final

# In quarters of a microsecond, as a topic's costs are: a millisecond.
A_TURN: Final = 4000


class Effort:
    """What was done since others could run.

    Attributes:
        spent: in the unit of A_TURN.  Those who count do not look whether it was in this task, or
            even in this thread: at worst, somebody lets others run who need not have.
    """

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0


EFFORT: Final = Effort()
