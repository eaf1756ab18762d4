"""Least work: to the worker that will have the least to do, for its capacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class LeastWork:
    """Score = (leased cost + this cost) / (speed × slots): ms until it would have worked off all it owes.

    Costs, not counts: one job of an hour is not two of a second. Shares of backlogged workers come out as their
    capacities.
    """

    name: ClassVar[str] = "least_work"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = True

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return (load.cost_ms + cost_ms) / (speed * load.slots)
