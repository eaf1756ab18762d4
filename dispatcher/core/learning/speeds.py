"""Measured speeds of workers, and learned costs of jobs, from what the workers tell.

How long a kind of job takes on a worker is taken to be cost ÷ speed. Where producers say the cost, that gives the speed
of one slot in their unit. Where they do not, costs and speeds are known only up to one factor: twice the cost at twice
the speed takes as long. It is fixed by the weights: on average over the fleet (geometric, weighted by slots and
evidence) speed ÷ weight is 1. So workers without weights, of 8 : 4 : 2 : 1, become 2.8 : 1.4 : 0.7 : 0.35, and the
times that follow are the true ones.

A speed is the weight at first, and the measurement after some jobs: the mean of both in log space, the weight counting
as ``prior_jobs`` jobs. A job that has run for much longer than it should lowers it before it ends.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

import msgspec

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.evidence import Delta, WorkerReport
from dispatcher.core.learning.rate import MEMORY_JOBS, Rate

BOUND = 64.0
"""A speed stays within this factor of the fleet's median."""

OVERRUN = 3.0
"""A running job counts as slow once it has run for so many times its expected time: jobs of a kind are not all alike.
"""

RESTART_JOBS = 20.0
"""After a worker is started again under its name, what was measured of it counts as so many jobs at most: its machine
may be another.
"""

GONE_MAX = 1_000
"""The measurements of so many workers that are gone are kept for their return."""

SAVE_INTERVAL_MS = 10_000
"""A state that changes all the time is written down this often."""

_SHORTEST_MS: Final = 0.1
"""Times come in whole ms: a job of 0 ms took less than one, not nothing."""

_NOTHING: Final[Mapping[str, float]] = {}


class _CostKind(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """A kind of job, by how its work is measured."""

    task: str
    model: str
    guessed: bool
    """True: no producer said the cost, so that the unit of work is one job. False: the unit is one ms of cost."""


_Cell = tuple[str, _CostKind, Rate]
"""(worker's name, kind of job, what was measured of it there)."""


class _Saved(msgspec.Struct):
    """What survives a takeover."""

    speeds: dict[str, dict[str, float]]
    lives: dict[str, str]
    rates: dict[str, list[tuple[_CostKind, Rate]]]
    measured: dict[str, dict[str, float]]
    """Name → model → logarithm of the speed, measured alone."""
    costs: list[tuple[_CostKind, float]]


class Speeds:
    """The estimates of one leader. By node name, so that a restarted worker does not start from nothing."""

    def __init__(self, *, prior_jobs: float, measured: bool = True) -> None:
        """``prior_jobs``: the weight counts as so many measured jobs. ``measured`` False: only costs are learned."""
        self._prior_jobs = prior_jobs
        self._measured = measured
        self._rates: dict[str, dict[_CostKind, Rate]] = {}  # by worker; the one seen last is last
        self._lives: dict[str, str] = {}  # name → the newest epoch
        self._log_costs: dict[_CostKind, float] = {}  # log of ms at speed 1; guessed kinds only
        self._measured_logs: dict[str, dict[str, float]] = {}  # name → model → log of the speed, measured alone
        self._jobs: dict[tuple[str, str], float] = {}  # (name, model) → how many jobs that was measured by
        self._priors: dict[str, float] = defaultdict(float)  # model → log of what a weight of 1 stands for in its unit
        self._reports: dict[str, WorkerReport] = {}
        self._speeds: dict[str, dict[str, float]] = {}
        self._now_ms = 0
        self._dumped = b""
        self._time_to_dump = Every(SAVE_INTERVAL_MS)
        self._dumped_rates = -1

    def of(self, name: str) -> Mapping[str, float]:
        """Model → speed of one slot of the worker, where it was measured."""
        return self._speeds.get(name, _NOTHING)

    def costs_ms(self) -> Iterator[tuple[str, str, float]]:
        """(task, model, cost in ms at speed 1) of kinds whose producers say no cost, once ``prior_jobs`` of their jobs
        were done.
        """
        jobs: dict[_CostKind, float] = defaultdict(float)
        for name in self._reports:
            for kind, rate in self._rates.get(name, {}).items():
                jobs[kind] += rate.jobs
        for kind, log_cost in self._log_costs.items():
            if jobs[kind] >= self._prior_jobs:
                yield kind.task, kind.model, math.exp(log_cost)

    # -- learning

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        """See :class:`~dispatcher.core.facts.evidence.Learner`."""
        self._now_ms = now_ms
        for report in reports:
            self._meet(report)
        self._reports = {report.name: report for report in reports}
        self._forget()
        for delta in deltas:
            self._count(delta)
        models: dict[str, list[_Cell]] = defaultdict(list)
        for name in self._reports:
            for kind, rate in self._rates[name].items():
                models[kind.model].append((name, kind, rate))
        self._jobs = {}
        for model, cells in models.items():
            self._solve(model, cells)
        self._speeds = self._bounded(self._current(models)) if self._measured else {}

    def _meet(self, report: WorkerReport) -> None:
        rates = self._rates[report.name] = self._rates.pop(report.name, {})
        if self._lives.get(report.name) != report.epoch:
            self._lives[report.name] = report.epoch
            for rate in rates.values():
                rate.jobs = min(rate.jobs, RESTART_JOBS)

    def _forget(self) -> None:
        for name in list(self._rates)[: max(0, len(self._rates) - len(self._reports) - GONE_MAX)]:
            del self._rates[name]
            self._lives.pop(name, None)
        self._measured_logs = {name: logs for name, logs in self._measured_logs.items() if name in self._reports}

    def _count(self, delta: Delta) -> None:
        if delta.name not in self._reports:
            return
        declared = delta.done - delta.guessed
        cost_ms = delta.cost_ms - delta.guessed_cost_ms
        if delta.guessed:
            self._add(delta, _CostKind(delta.task, delta.model, True), delta.guessed_busy_ms, delta.guessed, delta.guessed)
        if declared > 0 and cost_ms > 0:
            self._add(delta, _CostKind(delta.task, delta.model, False), delta.busy_ms - delta.guessed_busy_ms, cost_ms, declared)

    def _add(self, delta: Delta, kind: _CostKind, busy_ms: int, work: int, jobs: int) -> None:
        rates = self._rates[delta.name]
        rate = rates.get(kind)
        if rate is None:
            rate = rates[kind] = Rate()
        each_ms = max(busy_ms, _SHORTEST_MS * jobs) / work
        log_cost = self._log_costs.get(kind) if kind.guessed else 0.0
        expected_ms = 0.0 if log_cost is None else math.exp(log_cost - self._log_speed(delta.name, kind.model))
        rate.observe(each_ms, jobs, job_ms=each_ms * work / jobs, expected_ms=expected_ms)

    # -- estimating

    def _log_speed(self, name: str, model: str) -> float:
        """Logarithm of the measured speed, else of the weight."""
        log_speed = self._measured_logs.get(name, _NOTHING).get(model)
        return math.log(self._reports[name].weight) if log_speed is None else log_speed

    def _solve(self, model: str, cells: Sequence[_Cell]) -> None:
        """One pass of least squares over ``log mean = log cost - log speed``: costs from the last speeds, speeds from
        those.
        """
        sums: dict[_CostKind, list[float]] = defaultdict(lambda: [0.0, 0.0])
        logs = [rate.log_mean for _, _, rate in cells]
        for (name, kind, rate), log_mean in zip(cells, logs, strict=True):
            if kind.guessed:
                weight = min(rate.jobs, MEMORY_JOBS)
                of_kind = sums[kind]
                of_kind[0] += weight * (log_mean + self._log_speed(name, model))
                of_kind[1] += weight
        self._log_costs |= {kind: total / weight for kind, (total, weight) in sums.items()}
        if not self._measured:
            return
        sums_of: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for (name, kind, rate), log_mean in zip(cells, logs, strict=True):
            log_cost = self._log_costs[kind] if kind.guessed else 0.0
            # Kinds weigh by the time they take: a kind that does next to nothing says nothing of how fast the others
            # go.
            weight = min(rate.jobs, MEMORY_JOBS) * rate.job_ms
            speed = sums_of[name]
            speed[0] += weight * (log_cost - log_mean)
            speed[1] += weight
            speed[2] += weight * weight / rate.jobs
        # With how many jobs of one kind as much would be known (Kish's effective sample size).
        speeds = {name: (total / weight, weight * weight / squares) for name, (total, weight, squares) in sums_of.items()}
        surplus = self._surplus(speeds)
        if all(kind.guessed for _, kind, _ in cells):  # nobody's unit to respect
            for kind in sums:
                self._log_costs[kind] -= surplus
            self._priors[model], shift = 0.0, surplus
        else:
            jobs = sum(count for _, count in speeds.values())
            self._priors[model], shift = surplus * jobs / (jobs + self._prior_jobs), 0.0
        for name, (log_speed, count) in speeds.items():
            self._measured_logs.setdefault(name, {})[model] = log_speed - shift
            self._jobs[name, model] = count

    def _surplus(self, speeds: Mapping[str, tuple[float, float]]) -> float:
        """By how much, in logs, the fleet is faster than its weights. ``speeds``: name → log speed, jobs."""
        total = weights = 0.0
        for name, (log_speed, jobs) in speeds.items():
            worker = self._reports[name]
            weight = worker.concurrency * jobs / (jobs + self._prior_jobs)
            total += weight * (log_speed - math.log(worker.weight))
            weights += weight
        return total / weights if weights else 0.0

    def _current(self, models: Iterable[str]) -> dict[str, dict[str, float]]:
        """Name → model → speed: the prior, the measurement and the running jobs together."""
        speeds: dict[str, dict[str, float]] = {name: {} for name in self._reports}
        for model in models:
            prior = self._priors[model]
            for name, worker in self._reports.items():
                jobs = self._jobs.get((name, model), 0.0)
                if jobs or prior:  # in a unit that is not the weights', no worker may be left with its bare weight
                    expected = math.log(worker.weight) + prior
                    log = expected + (self._log_speed(name, model) - expected) * jobs / (self._prior_jobs + jobs) if jobs else expected
                    speeds[name][model] = math.exp(log)
        for name, worker in self._reports.items():
            for model, factor in self._overruns(worker, speeds[name]).items():
                speeds[name][model] = speeds[name].get(model, worker.weight) / factor
        return speeds

    def _overruns(self, worker: WorkerReport, speeds: Mapping[str, float]) -> dict[str, float]:
        """Model → by how much the worker's running jobs, on average, are later than they may be; only what is above 1."""
        late: dict[str, list[float]] = defaultdict(list)
        for job in worker.totals.running:
            log_cost = self._log_costs.get(_CostKind(job.task, job.model, True))
            cost_ms = job.cost_ms if not job.guessed else math.exp(log_cost) if log_cost is not None else 0.0
            if cost_ms > 0 and not worker.may_load(job):
                expected_ms = cost_ms / speeds.get(job.model, worker.weight)
                late[job.model].append(max(1.0, job.age_ms / expected_ms / OVERRUN))
        means = {model: sum(factors) / len(factors) for model, factors in late.items()}
        return {model: factor for model, factor in means.items() if factor > 1}

    def _bounded(self, speeds: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """The speeds within :data:`BOUND` of the median: no measurement is worth more than that."""
        of_model: dict[str, list[float]] = defaultdict(list)
        for by_model in speeds.values():
            for model, speed in by_model.items():
                of_model[model].append(speed)
        middles = {model: median(values) for model, values in of_model.items()}
        return {
            name: {model: min(max(speed, middles[model] / BOUND), middles[model] * BOUND) for model, speed in by_model.items()}
            for name, by_model in speeds.items()
            if by_model
        }

    # -- for a successor

    def dump(self) -> bytes:
        """Speeds, for whoever shows them, and what they were made of. Written anew every :data:`SAVE_INTERVAL_MS`, or
        where there is something new to be measured.
        """
        rates = sum(map(len, self._rates.values()))
        if rates != self._dumped_rates:
            self._time_to_dump.restart()
        if self._time_to_dump.due(self._now_ms):
            self._dumped_rates = rates
            rates_of = {name: list(rates.items()) for name, rates in self._rates.items() if rates}
            self._dumped = msgspec.json.encode(
                _Saved(self._speeds, self._lives, rates_of, self._measured_logs, list(self._log_costs.items()))
            )
        return self._dumped

    def load(self, state: bytes) -> None:
        """See :class:`~dispatcher.core.facts.evidence.Learner`."""
        saved = msgspec.json.decode(state, type=_Saved)
        self._speeds = saved.speeds if self._measured else {}
        self._lives, self._measured_logs = saved.lives, saved.measured
        self._rates = {name: dict(rates) for name, rates in saved.rates.items()}
        self._log_costs = dict(saved.costs)
        self._reports = {}
