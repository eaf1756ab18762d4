"""Weighted least connections: to the worker that owes the fewest jobs for its capacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class WeightedLeastConnections:
    """Score = (leases + 1) ** bias / (speed × slots): Envoy's weight / (active + 1) ** bias, turned over, as lower is
    better.

    Envoy draws by that weight; here the best is taken. ``bias`` 1.0 as there; at 0 only capacity counts, a larger one
    flees load sooner. For jobs whose cost nobody declares.
    """

    bias: float = 1.0
    name: ClassVar[str] = "weighted_least_connections"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        score: float = (load.leases + 1.0) ** self.bias / (speed * load.slots)
        return score
