"""Power of two choices: of two workers drawn by chance, the one that owes less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """Two are drawn, each with the same chance; score = (leases + 1) / (weight × concurrency), so that for equals the shorter queue wins.

    Mitzenmacher, 1996. The choice costs the same in a fleet of any size, and dispatchers that see old loads do not all run to one
    worker. Full workers are not drawn.
    """

    name: ClassVar[str] = "power_of_two"
    draws: ClassVar[int] = 2
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return (load.leases + 1) / worker.capacity
