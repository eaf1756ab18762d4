"""Weighted least connections: to the worker that owes the fewest jobs for its capacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class WeightedLeastConnections:
    """Score = (leases + 1) ** bias / (weight × concurrency): Envoy's weight / (active + 1) ** bias, turned over, as lower is better.

    Envoy draws by that weight; here the best is taken. ``bias`` 1.0 as there; at 0 only capacity counts, a larger one flees load
    sooner. For jobs whose cost nobody declares.
    """

    bias: float = 1.0
    name: ClassVar[str] = "weighted_least_connections"
    draws: ClassVar[int] = 0
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return float((load.leases + 1) ** self.bias) / worker.capacity
