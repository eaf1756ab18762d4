"""Least connections: to the worker that owes the fewest jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class LeastConnections:
    """Score = leases, running or not. Join the shortest queue (Winston, 1977): best for equal workers whose jobs are
    alike or unknown.
    """

    name: ClassVar[str] = "least_connections"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return load.leases
