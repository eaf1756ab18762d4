"""Earliest completion: to the worker where this job would be done soonest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class EarliestCompletion:
    """Score = (wait + this cost) / speed, in ms; wait = leased cost / concurrency × (leases − concurrency + 1) /
    leases, or none.

    With a free slot the job starts at once. Else ``leases − concurrency + 1`` jobs must end first, each of the mean
    leased cost, and ``concurrency`` run side by side. With one slot this is (leased cost + this cost) / weight: minimum
    completion time (Ibarra and Kim, 1977). A heavy job goes to a strong worker and waits there a little; a weak one
    gets it only when that is sooner.
    """

    name: ClassVar[str] = "earliest_completion"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = True

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        before = load.leases - load.slots + 1
        wait_ms = load.cost_ms * before * (before > 0) / ((load.leases + (load.leases == 0)) * load.slots)
        return (wait_ms + cost_ms) / speed
