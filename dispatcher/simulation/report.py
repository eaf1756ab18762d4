"""What a run is judged by: response times, use of the fleet and its evenness, beside the lower bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dispatcher.simulation.bounds import mean_response_bound_ms
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.world import Outcome, SimWorker


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
    good strategy has a large one. ``mean_bound_s``: no dispatcher does better.
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
    plans: int
    workers: tuple[WorkerReport, ...]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def report(strategy: str, jobs: Sequence[SimJob], fleet: Sequence[SimWorker], outcome: Outcome) -> Report:
    """The figures of one run over those jobs and that fleet."""
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
    bound_ms = mean_response_bound_ms(jobs, fleet_speed=capacity, fastest=max(one.weight for one in fleet))
    return Report(
        strategy=strategy,
        jobs=len(jobs),
        unfinished=len(jobs) - len(ended),
        repeated=sum(runs > 1 for runs in outcome.runs),
        mean_s=sum(ended) / len(ended) if ended else math.nan,
        p50_s=percentile(ended, 50),
        p99_s=percentile(ended, 99),
        max_s=percentile(ended, 100),
        mean_bound_s=bound_ms / 1000,
        makespan_s=outcome.ended_ms / 1000,
        utilization=work_ms / (capacity * outcome.ended_ms) if outcome.ended_ms else 0.0,
        share_error=max(abs(one.share - one.capacity_share) for one in workers),
        plans=outcome.plans,
        workers=workers,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the sorted values do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
