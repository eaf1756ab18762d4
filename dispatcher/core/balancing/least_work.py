"""Least work: to the worker that will have the least to do, for its capacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class LeastWork:
    """Score = (leased cost + this cost) / (weight × concurrency): ms until it would have worked off all it owes.

    Costs, not counts: one job of an hour is not two of a second. Shares of backlogged workers come out as their capacities.
    """

    name: ClassVar[str] = "least_work"
    draws: ClassVar[int] = 0
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return (load.cost_ms + max(1, lane.cost_ms)) / worker.capacity
