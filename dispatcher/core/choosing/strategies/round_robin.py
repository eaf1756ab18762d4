"""Round robin: each in turn, whatever it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Score = when it was last chosen: the one whose turn is longest ago is next; a newcomer comes first, once.

    Full workers are passed over, so a slow one gets less than its turn under load. For fleets of equals, and to compare
    with.
    """

    name: ClassVar[str] = "round_robin"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = "equal"
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return load.last_turn
