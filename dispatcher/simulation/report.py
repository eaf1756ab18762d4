"""The figures of a run: response times, use of the fleet and how even it was, cache hits; beside their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.simulation.bounds import Bounds, bounds_of
from dispatcher.simulation.caches import CacheSizes
from dispatcher.simulation.outcome import SimOutcome
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import SimWorker


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The figures of a worker, over all its lives."""

    name: str
    jobs: int
    share: float
    """Its share of the work that was done."""
    capacity_share: float
    """Its share of the fleet's capacity."""
    utilization: float
    """How much of the time its slots were busy."""


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run. Response times are in seconds, from arrival to end, over the jobs that ended.

    A rate is ``None`` if there was nothing to count.
    """

    strategy: str
    jobs: int
    unfinished: int
    """Jobs that never ended."""
    repeated: int
    """Jobs that ran more than once."""
    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    mean_bound_s: float
    """No dispatcher has a lower mean."""
    makespan_s: float
    """From the first arrival to the last end."""
    utilization: float
    """Work done, divided by what the fleet could have done up to the last end."""
    share_error: float
    """The largest difference between a worker's share of the work and of the capacity; large under light load, even
    for a good strategy.
    """
    imbalance: float
    """The busiest worker's utilization, divided by the mean."""
    hit_rate: float | None
    """Share of prefix blocks that were cached where their job ran."""
    pooled_lru_rate: float | None
    """``hit_rate`` of one LRU cache as large as all workers' together."""
    pooled_belady_rate: float | None
    """``hit_rate`` of such a cache that knows which blocks come."""
    session_hit_rate: float | None
    """Share of jobs that ran where their session was kept; the first job of a session does not count."""
    model_hit_rate: float | None
    """Share of jobs whose model was in memory, or on its way there, when they began."""
    loads: int
    """Loads of models."""
    pooled_belady_loads: int
    """``loads`` of one memory as large as all together, with jobs in order of arrival, which knows which jobs come."""
    plans: int
    workers: tuple[WorkerReport, ...]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def report(
    strategy: str, jobs: Sequence[SimJob], fleet: Sequence[SimWorker], outcome: SimOutcome, bounds: Bounds | None = None
) -> Report:
    """The figures of one run of those jobs on that fleet.

    ``bounds`` of ``None``: they are computed here, for workers without caches.
    """
    bounds = bounds or bounds_of(jobs, fleet, CacheSizes())
    ended = sorted(ms / 1000 for ms in outcome.response_ms if not math.isnan(ms))
    capacity = sum(worker.weight * worker.concurrency for worker in fleet)
    work_ms = sum(account.work_ms for account in outcome.workers.values())
    workers = tuple(
        WorkerReport(
            name=worker.name,
            jobs=(account := outcome.workers[worker.name]).jobs,
            share=account.work_ms / work_ms if work_ms else 0.0,
            capacity_share=worker.weight * worker.concurrency / capacity,
            utilization=account.busy_ms / (outcome.ended_ms * worker.concurrency) if outcome.ended_ms else 0.0,
        )
        for worker in fleet
    )
    busiest = max(worker.utilization for worker in workers)
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
        share_error=max(abs(worker.share - worker.capacity_share) for worker in workers),
        imbalance=busiest * len(workers) / sum(worker.utilization for worker in workers) if busiest else 1.0,
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
    """The smallest value that at least ``percent`` % of the sorted values do not exceed; NaN if there are none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
