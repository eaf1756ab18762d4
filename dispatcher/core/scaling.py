"""How many workers there should be: seconds of work waiting against a target. Pure: a view in, a decision with its reason out.

Up at once, for a burst cannot wait; down only when a whole stabilization window agreed. Work is counted in seconds, running jobs
included, and workers that are starting count as if they worked already, or one burst would start the whole fleet again with every look.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.facts.header import DEFAULT_MODEL

SLACK: Final = 0.9
"""Scale down only as far as leaves a tenth of the capacity to spare, or the next job would scale up again."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work that waits: ``cost_s`` seconds of it on a worker of weight 1, for workers that serve ``model``."""

    model: str
    cost_s: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of worker that can be started. ``capacity``: weight × concurrency."""

    name: str
    capacity: float
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that lives or is starting. ``ours``: it may be drained by us. ``draining`` ones count for the maximum alone."""

    name: str
    capacity: float
    models: frozenset[str] = frozenset()
    leases: int = 0
    leased_cost_s: float = 0.0
    starting: bool = False
    draining: bool = False
    ours: bool = True


@dataclass(frozen=True, slots=True)
class ScalingView:
    """One instant. ``now_ms`` of any monotonic clock."""

    now_ms: int
    waiting: tuple[Waiting, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """``workers_max`` is never passed; ``workers_min`` is kept whatever the load."""

    target_wait_s: float
    stabilization_s: float
    workers_min: int
    workers_max: int


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What is remembered from look to look: (when in ms, capacity that was needed), oldest first."""

    needed: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """``start``: kinds, one entry for each worker to start. ``drain``: names. ``wait_s``: seconds of work for the whole fleet now."""

    start: tuple[str, ...]
    drain: tuple[str, ...]
    reason: str
    wait_s: float
    workers: int

    @property
    def acts(self) -> bool:
        return bool(self.start or self.drain)


def decide(
    view: ScalingView, kinds: Sequence[Kind], limits: ScalingLimits, memory: ScalingMemory
) -> tuple[ScalingDecision, ScalingMemory]:
    """What to start or drain now; never both, and never a job is killed for it. ``kinds``: the first is the one to start."""
    staying = [one for one in view.members if not one.draining]
    models = [*(one.models for one in staying), *(kind.models for kind in kinds)]
    # No worker of ours could help with the rest.
    waiting = [one for one in view.waiting if any(_serves(some, one.model) for some in models)]
    work_s = sum(one.cost_s for one in waiting) + sum(one.leased_cost_s for one in staying)
    capacity = sum(one.capacity for one in staying)
    needed = work_s / limits.target_wait_s
    memory = _remember(memory, view.now_ms, needed, limits)
    wait_s = work_s / capacity if capacity else (math.inf if work_s else 0.0)
    situation = f"{work_s:.1f} s of work ÷ capacity {capacity:g} = {wait_s:.1f} s, target {limits.target_wait_s:g} s"

    def decision(reason: str, start: Iterable[str] = (), drain: Iterable[str] = ()) -> tuple[ScalingDecision, ScalingMemory]:
        return ScalingDecision(tuple(start), tuple(drain), f"{reason}: {situation}", wait_s, len(staying)), memory

    room = max(0, limits.workers_max - len(view.members))
    first, more, why = _to_start(waiting, staying, kinds, needed - capacity, limits)
    if wanted := len(first) + more:
        if room:
            limited = f", {wanted} wanted" if wanted > room else ""
            start = [*first, *[kinds[0]] * min(more, room)][:room]
            return decision(f"{why}{limited}", start=(kind.name for kind in start))
        return decision(f"{why}, but {len(view.members)} of at most {limits.workers_max} workers are there")
    leaving = _to_drain(waiting, staying, memory, limits)
    if leaving:
        idle = sum(1 for one in leaving if not one.leases)
        return decision(f"too many for {limits.stabilization_s:g} s, {idle} of {len(leaving)} idle", drain=(one.name for one in leaving))
    return decision("enough")


def _remember(memory: ScalingMemory, now_ms: int, needed: float, limits: ScalingLimits) -> ScalingMemory:
    """The window, and the last entry before it: that one says that the whole window has been seen."""
    begins_ms = now_ms - round(limits.stabilization_s * 1000)
    entries = (*memory.needed, (now_ms, needed))
    first = max((at for at, (when_ms, _) in enumerate(entries) if when_ms <= begins_ms), default=0)
    return ScalingMemory(entries[first:])


def _to_start(
    waiting: Sequence[Waiting], staying: Sequence[Member], kinds: Sequence[Kind], missing: float, limits: ScalingLimits
) -> tuple[list[Kind], int, str]:
    """Kinds to start first, how many more of the first kind (not bounded: it may be millions), and why."""
    if not kinds:
        return [], 0, ""
    start: list[Kind] = []
    more = 0
    why = ""
    served = {model for one in staying for model in one.models} | ({DEFAULT_MODEL} if staying else set())
    for model in dict.fromkeys(one.model for one in waiting if one.cost_s > 0):
        if model not in served and not any(_serves(kind.models, model) for kind in start):
            start += [kind for kind in kinds if _serves(kind.models, model)][:1]
            why = f"no worker serves {model}"
    missing -= sum(kind.capacity for kind in start)
    if missing > 0:
        more = math.ceil(missing / kinds[0].capacity)
        why = "too much work waits" if not why else f"{why} and too much work waits"
    if (lacking := limits.workers_min - len(staying) - len(start) - more) > 0:
        more += lacking
        why = why or f"fewer than {limits.workers_min} workers"
    return start, more, why


def _to_drain(
    waiting: Sequence[Waiting], staying: Sequence[Member], memory: ScalingMemory, limits: ScalingLimits
) -> list[Member]:
    """Idle ones first, then those with the least work left; as many as the busiest moment of the window could have spared."""
    first_ms, last_ms = memory.needed[0][0], memory.needed[-1][0]
    settled = last_ms - first_ms >= limits.stabilization_s * 1000
    needed = max(needed for _, needed in memory.needed)
    left = list(staying)
    leaving: list[Member] = []
    for one in sorted(staying, key=lambda one: (one.leases > 0, one.leased_cost_s, -one.capacity, one.name)):
        surplus = len(left) > limits.workers_max
        rest = [other for other in left if other is not one]
        spare = settled and len(rest) >= limits.workers_min and sum(other.capacity for other in rest) * SLACK >= needed
        if not one.ours or one.starting or not (surplus or spare):
            continue
        if any(not any(_serves(other.models, job.model) for other in rest) for job in waiting if _serves(one.models, job.model)):
            continue
        left = rest
        leaving.append(one)
    return leaving


def _serves(models: frozenset[str], model: str) -> bool:
    return model == DEFAULT_MODEL or model in models
