"""What is done to whom, and when: made from a seed; and what was done, for the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random


class Kind(Enum):
    """Faults. Those up to KILL_AUTOSCALER are kills."""

    KILL_WORKER = "kill worker"
    KILL_CHILD = "kill pool process"
    KILL_DISPATCHER = "kill dispatcher"
    KILL_AUTOSCALER = "kill autoscaler"
    TERM_WORKER = "term worker"
    TERM_DISPATCHER = "term dispatcher"
    TERM_AUTOSCALER = "term autoscaler"
    BLINK_WORKER = "freeze worker, short"
    FREEZE_WORKER = "freeze worker"
    FREEZE_MAIN = "freeze worker, its pool not"
    FREEZE_DISPATCHER = "freeze dispatcher"
    FREEZE_AUTOSCALER = "freeze autoscaler"
    RESTART_REDIS = "restart redis"
    CRASH_REDIS = "kill redis"
    FREEZE_REDIS = "freeze redis"
    CUT = "kill connections"
    LINE = "killed by a line"
    """Not planned: what a line of a batch did to the worker that ran it."""

    @property
    def is_kill(self) -> bool:
        """SIGKILL of a process of the cell."""
        return self in KILLS


KILLS = {Kind.KILL_WORKER: 70, Kind.KILL_CHILD: 8, Kind.KILL_DISPATCHER: 14, Kind.KILL_AUTOSCALER: 8}
OTHERS = {
    Kind.TERM_WORKER: 18, Kind.TERM_DISPATCHER: 6, Kind.TERM_AUTOSCALER: 4, Kind.BLINK_WORKER: 14, Kind.FREEZE_WORKER: 12,
    Kind.FREEZE_MAIN: 6, Kind.FREEZE_DISPATCHER: 7, Kind.FREEZE_AUTOSCALER: 3, Kind.RESTART_REDIS: 6, Kind.CRASH_REDIS: 6,
    Kind.FREEZE_REDIS: 4, Kind.CUT: 14,
}  # fmt: skip
OTHERS_PER_KILL = 0.4
REDIS_FAULTS = {Kind.RESTART_REDIS, Kind.CRASH_REDIS, Kind.FREEZE_REDIS, Kind.CUT}
DISPATCHER_FAULTS = {Kind.KILL_DISPATCHER, Kind.TERM_DISPATCHER, Kind.FREEZE_DISPATCHER}
AUTOSCALER_FAULTS = {Kind.KILL_AUTOSCALER, Kind.TERM_AUTOSCALER, Kind.FREEZE_AUTOSCALER}


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come. ``dice``, in [0, 1), chooses among the targets that there are; ``span_s``: how long it lasts."""

    at_s: float
    kind: Kind
    dice: float
    span_s: float = 0.0


@dataclass(slots=True)
class Done:
    """A fault that was done, in ms of the ledger's clock. ``pids``: the processes that died or stood still."""

    kind: Kind
    at_ms: int
    until_ms: int
    pids: tuple[int, ...] = ()
    who: str = ""

    @property
    def breaks_runs(self) -> bool:
        """Whether a job that ran in one of its processes may run again."""
        return self.kind in BREAKS_RUNS


BREAKS_RUNS = {Kind.KILL_WORKER, Kind.KILL_CHILD, Kind.KILL_AUTOSCALER, Kind.FREEZE_WORKER, Kind.FREEZE_MAIN, Kind.LINE}
"""Neither a SIGTERM, nor a freeze shorter than a lease's life, nor anything that happens to Redis or to the dispatcher."""


def plan_faults(kills: int, seconds: float, rng: Random, *, lease_ttl_s: float, others: Sequence[Kind] = ()) -> list[Planned]:
    """So many kills, and other faults between them (``others``, else any), over ``seconds``."""
    kinds = [*_drawn(KILLS, kills, rng), *(others or _drawn(OTHERS, round(kills * OTHERS_PER_KILL), rng))]
    rng.shuffle(kinds)
    gap_s = seconds / max(1, len(kinds))
    return [
        Planned(round((number + rng.random()) * gap_s, 3), kind, rng.random(), _span_s(kind, rng, lease_ttl_s))
        for number, kind in enumerate(kinds)
    ]


def _drawn(weights: dict[Kind, int], count: int, rng: Random) -> list[Kind]:
    """In proportion to their weights as nearly as whole numbers go, so that few kills are not all of one kind."""
    total = sum(weights.values())
    kinds = [kind for kind, weight in weights.items() for _ in range(count * weight // total)]
    return kinds + rng.choices(list(weights), list(weights.values()), k=count - len(kinds))


def _span_s(kind: Kind, rng: Random, lease_ttl_s: float) -> float:
    if kind is Kind.BLINK_WORKER:
        return rng.uniform(0.2, lease_ttl_s / 2)
    if kind in {Kind.FREEZE_WORKER, Kind.FREEZE_MAIN}:
        return lease_ttl_s + rng.uniform(2.0, 5.0)
    if kind in {Kind.FREEZE_DISPATCHER, Kind.FREEZE_AUTOSCALER, Kind.FREEZE_REDIS}:
        return rng.uniform(1.0, 7.0)
    if kind in {Kind.RESTART_REDIS, Kind.CRASH_REDIS}:
        return rng.uniform(0.0, 2.0)
    return 0.0
