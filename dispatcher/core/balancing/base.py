"""The seams of choosing: order lanes → filter workers → score → pick. Each is a small file here and a line in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from dispatcher.core.snapshot import LaneView, WorkerView


@dataclass(slots=True)
class Load:
    """What a worker owes, kept up to date while a plan grows. ``last_turn`` is when it was last chosen (a count, not a time).

    ``passed`` is how far it is on in turns weighted by capacity, ``stride`` what one turn adds to it; both 0 unless the strategy
    weighs turns.
    """

    leases: int
    cost_ms: int
    last_turn: int
    passed: float = 0.0
    stride: float = 0.0


class Filter(Protocol):
    """A hard condition."""

    name: ClassVar[str]

    def refuses(self, lane: LaneView, worker: WorkerView) -> str | None:
        """Why jobs of the lane must not go to the worker, in a few words; ``None`` if they may."""
        ...


class Strategy(Protocol):
    """A preference among the workers that passed the filters and have room.

    ``draws``: 0 for the best of them all; else so many are drawn by chance for each job, and the best of those gets it.
    ``weighs_turns``: the plan keeps :attr:`Load.passed` for it.
    """

    name: ClassVar[str]
    draws: ClassVar[int]
    weighs_turns: ClassVar[bool]

    def score(self, lane: LaneView, worker: WorkerView, load: Load) -> float:
        """Lower is better. It must not fall while ``load`` grows: the plan relies on it."""
        ...
