"""Weighted round robin: each in turn, as often as its capacity says, and evenly spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dispatcher.core.choosing.protocols import Load


@dataclass(frozen=True, slots=True)
class WeightedRoundRobin:
    """Score = the worker's turns, each counted as 1 / (speed × slots): the one that is least far on is next.

    Shares and smoothness are those of nginx's smooth weighted round robin (commit 52327e06), where each step adds its
    weight to every peer, and the best pays the sum; here as stride scheduling (Waldspurger and Weihl, 1995), which has
    a score that stands still while others are chosen. At every point of a cycle each worker has had its share of the
    turns, to within one or two. A worker that was away or full does not make up for the turns it missed; a newcomer
    begins in the middle of its first one.
    """

    name: ClassVar[str] = "weighted_round_robin"
    draws: ClassVar[int] = 0
    turns: ClassVar[Literal["", "equal", "weighed"]] = "weighed"
    timed: ClassVar[bool] = False

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        return load.passed
