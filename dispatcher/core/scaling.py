"""How many workers there should be: seconds of work waiting against a target. Pure: a view in, a decision with its
reason out.

Up at once, for a burst cannot wait; down only when a whole stabilization window agreed. Work is counted in seconds,
running jobs included, and workers that are starting count as if they worked already, or one burst would start the whole
fleet again with every look.
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
    """Work that waits for workers that serve a model."""

    model: str
    cost_s: float
    """Seconds of it, on a worker of weight 1."""


@dataclass(frozen=True, slots=True)
class Startable:
    """A kind of worker that can be started."""

    name: str
    capacity: float
    """Weight × concurrency."""
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that lives or is starting."""

    name: str
    capacity: float
    """Weight × concurrency."""
    models: frozenset[str] = frozenset()
    leases: int = 0
    """Jobs that it owes."""
    leased_cost_s: float = 0.0
    """Their cost."""
    starting: bool = False
    """It has not registered yet."""
    draining: bool = False
    """It leaves, and counts for the maximum alone."""
    ours: bool = True
    """We may drain it."""


@dataclass(frozen=True, slots=True)
class ScalingView:
    """One instant."""

    now_ms: int
    """Of any monotonic clock."""
    waiting: tuple[Waiting, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """What an operator sets."""

    target_wait_s: float
    """How long the whole fleet may need for all work that waits and runs."""
    stabilization_s: float
    """Workers are drained only if they were too many for so long."""
    workers_min: int
    """Kept, whatever the load."""
    workers_max: int
    """Never passed."""


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What is remembered from look to look."""

    needed: tuple[tuple[int, float], ...] = ()
    """(when in ms, capacity that was needed), oldest first."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """Workers to start or to drain, and why."""

    start: tuple[str, ...]
    """Names of kinds, one entry for each worker to start."""
    drain: tuple[str, ...]
    """Names of workers."""
    reason: str
    wait_s: float
    """Seconds of work for the whole fleet now."""
    workers: int
    """Workers that stay."""

    @property
    def acts(self) -> bool:
        return bool(self.start or self.drain)


def decide(
    view: ScalingView, kinds: Sequence[Startable], limits: ScalingLimits, memory: ScalingMemory
) -> tuple[ScalingDecision, ScalingMemory]:
    """What to start or drain now; never both, and never is a job killed for it. The first of ``kinds`` is started if
    any will do.
    """
    staying = [member for member in view.members if not member.draining]
    served = [*(member.models for member in staying), *(kind.models for kind in kinds)]
    # No worker of ours could help with other work.
    waiting = [work for work in view.waiting if any(_serves(models, work.model) for models in served)]
    work_s = sum(work.cost_s for work in waiting) + sum(member.leased_cost_s for member in staying)
    capacity = sum(member.capacity for member in staying)
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
        idle = sum(1 for member in leaving if not member.leases)
        why = f"too many for {limits.stabilization_s:g} s, {idle} of {len(leaving)} idle"
        return decision(why, drain=(member.name for member in leaving))
    return decision("enough")


def _remember(memory: ScalingMemory, now_ms: int, needed: float, limits: ScalingLimits) -> ScalingMemory:
    """The entries of the window, and the last before it, which says that the whole window has been seen."""
    begins_ms = now_ms - round(limits.stabilization_s * 1000)
    entries = (*memory.needed, (now_ms, needed))
    first = max((at for at, (when_ms, _) in enumerate(entries) if when_ms <= begins_ms), default=0)
    return ScalingMemory(entries[first:])


def _to_start(
    waiting: Sequence[Waiting], staying: Sequence[Member], kinds: Sequence[Startable], missing: float, limits: ScalingLimits
) -> tuple[list[Startable], int, str]:
    """Kinds to start first, how many more of the first kind (not bounded: it may be millions), and why."""
    if not kinds:
        return [], 0, ""
    start: list[Startable] = []
    more = 0
    why = ""
    served = {model for member in staying for model in member.models} | ({DEFAULT_MODEL} if staying else set())
    for model in dict.fromkeys(work.model for work in waiting if work.cost_s > 0):
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
    """Members to drain, idle ones first, then by work left; as many as the busiest moment of the window could have
    spared.
    """
    first_ms, last_ms = memory.needed[0][0], memory.needed[-1][0]
    settled = last_ms - first_ms >= limits.stabilization_s * 1000
    needed = max(needed for _, needed in memory.needed)
    left = list(staying)
    leaving: list[Member] = []
    for member in sorted(staying, key=_least_busy):
        surplus = len(left) > limits.workers_max
        rest = [other for other in left if other is not member]
        spare = settled and len(rest) >= limits.workers_min and sum(other.capacity for other in rest) * SLACK >= needed
        if not member.ours or member.starting or not (surplus or spare):
            continue
        if any(not any(_serves(other.models, work.model) for other in rest) for work in waiting if _serves(member.models, work.model)):
            continue
        left = rest
        leaving.append(member)
    return leaving


def _least_busy(member: Member) -> tuple[bool, float, float, str]:
    return member.leases > 0, member.leased_cost_s, -member.capacity, member.name


def _serves(models: frozenset[str], model: str) -> bool:
    return model == DEFAULT_MODEL or model in models
