"""Round robin: each in turn, whatever it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.balancing.base import Load
from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Score = when it was last chosen: the one whose turn is longest ago is next; a newcomer comes first, once.

    Full workers are passed over, so a slow one gets less than its turn under load. For fleets of equals, and to compare with.
    """

    name: ClassVar[str] = "round_robin"
    draws: ClassVar[int] = 0
    weighs_turns: ClassVar[bool] = False

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        return load.last_turn
