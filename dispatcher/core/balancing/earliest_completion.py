"""Earliest completion: to the worker where this job would be done soonest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class EarliestCompletion:
    """Score = (wait + this cost) / weight, in ms; wait = leased cost / concurrency × (leases − concurrency + 1) / leases, or none.

    With a free slot the job starts at once. Else ``leases − concurrency + 1`` jobs must end first, each of the mean leased cost, and
    ``concurrency`` run side by side. With one slot this is (leased cost + this cost) / weight: minimum completion time (Ibarra and
    Kim, 1977). A heavy job goes to a strong worker and waits there a little; a weak one gets it only when that is sooner.
    """

    name: ClassVar[str] = "earliest_completion"
    draws: ClassVar[int] = 0
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        before, slots = load.leases - worker.concurrency + 1, worker.concurrency
        wait_ms = load.cost_ms * before / (load.leases * slots) if before > 0 and load.leases else 0.0
        return (wait_ms + max(1, lane.cost_ms)) / worker.weight
