"""Power of two choices: of two workers drawn by chance, the one that owes less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """Two are drawn, each with the same chance; score = (leases + 1) / (speed × slots), so that for equals the shorter
    queue wins.

    Mitzenmacher, 1996. The choice costs the same in a fleet of any size, and dispatchers that see old loads do not all
    run to one worker. Full workers are not drawn.
    """

    name: ClassVar[str] = "power_of_two"
    draws: ClassVar[int] = 2
    turns: ClassVar[Literal["", "equal", "weighed"]] = ""
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return (load.leases + 1) / (speed * load.slots)
