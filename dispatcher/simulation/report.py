"""What a run is judged by: response times, use of the fleet and its evenness, cache hits; beside the bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.simulation.bounds import Bounds, bounds_of
from dispatcher.simulation.caches import CacheSizes
from dispatcher.simulation.outcome import Outcome
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import SimWorker


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker, over all its lives. ``share`` of the work done, ``capacity_share`` of the fleet; ``utilization`` of its slots."""

    name: str
    jobs: int
    share: float
    capacity_share: float
    utilization: float


@dataclass(frozen=True, slots=True)
class Report:
    """Seconds, from arrival to end, over the jobs that ended; ``unfinished`` did not.

    ``repeated``: jobs that ran more than once. ``utilization``: work done ÷ what the fleet could have done up to the last end.
    ``share_error``: the largest difference between a worker's share of the work and its share of the capacity; under light load a
    good strategy has a large one. ``imbalance``: the busiest worker's utilization ÷ the mean. ``mean_bound_s``: no dispatcher does
    better. ``hit_rate``: prefix blocks that were cached where their job ran ÷ all; ``pooled_lru_rate``, ``pooled_belady_rate``: what one
    cache as large as all together would have had. ``session_hit_rate``: jobs that ran where their session was, first jobs of sessions
    left out. ``model_hit_rate``: jobs of a model that was in memory, or on its way there, when they began; ``loads`` the others;
    ``pooled_belady_loads``: what one memory as large as all together needs in order of arrival, knowing what comes. ``None``
    where there is nothing to count.
    """

    strategy: str
    jobs: int
    unfinished: int
    repeated: int
    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    mean_bound_s: float
    makespan_s: float
    utilization: float
    share_error: float
    imbalance: float
    hit_rate: float | None
    pooled_lru_rate: float | None
    pooled_belady_rate: float | None
    session_hit_rate: float | None
    model_hit_rate: float | None
    loads: int
    pooled_belady_loads: int
    plans: int
    workers: tuple[WorkerReport, ...]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def report(
    strategy: str, jobs: Sequence[SimJob], fleet: Sequence[SimWorker], outcome: Outcome, bounds: Bounds | None = None
) -> Report:
    """The figures of one run over those jobs and that fleet; ``bounds`` are theirs, found here where they are not given (no caches)."""
    bounds = bounds or bounds_of(jobs, fleet, CacheSizes())
    ended = sorted(ms / 1000 for ms in outcome.response_ms if not math.isnan(ms))
    capacity = sum(one.weight * one.concurrency for one in fleet)
    work_ms = sum(account.work_ms for account in outcome.workers.values())
    workers = tuple(
        WorkerReport(
            name=one.name,
            jobs=(account := outcome.workers[one.name]).jobs,
            share=account.work_ms / work_ms if work_ms else 0.0,
            capacity_share=one.weight * one.concurrency / capacity,
            utilization=account.busy_ms / (outcome.ended_ms * one.concurrency) if outcome.ended_ms else 0.0,
        )
        for one in fleet
    )
    busiest = max(one.utilization for one in workers)
    return Report(
        strategy=strategy,
        jobs=len(jobs),
        unfinished=len(jobs) - len(ended),
        repeated=sum(runs > 1 for runs in outcome.runs),
        mean_s=sum(ended) / len(ended) if ended else math.nan,
        p50_s=percentile(ended, 50),
        p99_s=percentile(ended, 99),
        max_s=percentile(ended, 100),
        mean_bound_s=bounds.mean_ms / 1000,
        makespan_s=outcome.ended_ms / 1000,
        utilization=work_ms / (capacity * outcome.ended_ms) if outcome.ended_ms else 0.0,
        share_error=max(abs(one.share - one.capacity_share) for one in workers),
        imbalance=busiest * len(workers) / sum(one.utilization for one in workers) if busiest else 1.0,
        hit_rate=outcome.blocks.rate,
        pooled_lru_rate=bounds.lru_rate,
        pooled_belady_rate=bounds.belady_rate,
        session_hit_rate=outcome.sessions.rate,
        model_hit_rate=outcome.models.rate,
        loads=outcome.loads,
        pooled_belady_loads=bounds.belady_loads,
        plans=outcome.plans,
        workers=workers,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the sorted values do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
