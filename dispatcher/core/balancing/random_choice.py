"""Random: any of those with room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """One worker is drawn, each with the same chance whatever it can do; there is no score.

    Uniform, as the name says: a yardstick for the others, and for fleets of equals. Full workers are not drawn.
    """

    name: ClassVar[str] = "random"
    draws: ClassVar[int] = 1
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return 0.0
