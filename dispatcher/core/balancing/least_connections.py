"""Least connections: to the worker that owes the fewest jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class LeastConnections:
    """Score = leases, running or not. Join the shortest queue (Winston, 1977): best for equal workers whose jobs are alike or unknown."""

    name: ClassVar[str] = "least_connections"
    draws: ClassVar[int] = 0
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return load.leases
