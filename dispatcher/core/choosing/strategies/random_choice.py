"""Random: any of those with room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """One worker is drawn, each with the same chance whatever it can do; there is no score.

    Uniform, as the name says: a yardstick for the others, and for fleets of equals. Full workers are not drawn.
    """

    name: ClassVar[str] = "random"
    draws: ClassVar[int] = 1
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return 0.0 * load.leases
