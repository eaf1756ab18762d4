"""Finds workers that have become slow: slower than their own past, while their peers have not slowed down with them.

A worker that was always slow is not found: it is as slow as its own past. All is in logarithms, so that ten times and a
tenth are as far from usual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, exp, log, sqrt
from statistics import fmean, median
from typing import Final

from dispatcher.core.facts.every import is_over
from dispatcher.core.facts.evidence import Delta, Running, WorkerReport
from dispatcher.core.facts.header import DEFAULT_MODEL

TimedKind = tuple[str, str, bool]
"""Task, model, and True if the cost is a guess: then time is counted by the job, for guesses change as they are
learned.
"""

READS_MIN: Final = 10
"""A past is one once so many reads have found ended jobs of the kind."""

MEMORY: Final = 100
"""A past goes back about so many such reads. What changes for good is usual after a few times as many."""

RECENT: Final = (3, 10)
"""Window sizes, in reads that ended jobs: 3 when durations are stable, 10 when they vary."""

SIGMAS: Final = 5.0
"""Standard deviations from its own mean before a worker counts as slow."""

SCATTER_MIN: Final = 0.2
"""The scatter (standard deviation of the logarithms) is taken to be at least this."""

SHORTEST: Final = 0.01
"""Times come in whole ms: a job of 0 ms was shorter than one, nobody knows by how much."""

STALE_MS: Final = 15_000
"""A report that is older says nothing of now."""


@dataclass(slots=True)
class _Past:
    """How long jobs of one kind take on one worker, as the log of time over cost."""

    mean: float
    variance: float = 1.0
    reads: int = 1
    """How many reads it was learned from."""

    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT[-1]))
    """The last few reads: (when, difference from the mean)."""

    @property
    def scatter(self) -> float:
        return max(SCATTER_MIN, sqrt(self.variance)) * (1 + 5 / self.reads)

    def learn(self, value: float, now_ms: int) -> None:
        off = value - self.mean
        if self.reads >= READS_MIN:
            self.recent.append((now_ms, off))
            limit = 2 * self.scatter  # what is far off moves the past a little only
            off = max(-limit, min(limit, off))
        self.reads += 1
        share = 1 / min(self.reads, MEMORY)
        self.mean += share * off
        self.variance += share * (off * off - self.variance)

    def latest(self, reads: int, now_ms: int) -> list[float]:
        fresh = [off for at_ms, off in self.recent if not is_over(at_ms, STALE_MS, now_ms)]
        return fresh[-reads:]


@dataclass(slots=True)
class Slowing:
    """Finds workers that have become slow, from report to report."""

    ratio: float
    """A worker that is so many times slower than it was is worth a look; 0: never."""

    suspects: set[str] = field(default_factory=set)
    """Epochs of workers that are slow at what nobody else does, so that there is nothing to compare with."""
    _pasts: dict[str, dict[TimedKind, _Past]] = field(default_factory=dict)

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> dict[str, str]:
        """Epoch → what is wrong with the worker, for each worker that has become slow while others have not."""
        self.suspects = set()
        if not self.ratio:
            return {}
        for delta in deltas:
            task, model, declared_ms = delta.task, delta.model, delta.cost_ms - delta.guessed_cost_ms
            if declared_ms > 0:
                self._learn(delta.epoch, (task, model, False), (delta.busy_ms - delta.guessed_busy_ms) / declared_ms, now_ms)
            if delta.guessed > 0:
                self._learn(delta.epoch, (task, model, True), delta.guessed_busy_ms / delta.guessed, now_ms)
        alive = {report.epoch for report in reports}
        for epoch in self._pasts.keys() - alive:
            del self._pasts[epoch]
        offs = {report.epoch: self._offs(report, now_ms) for report in reports if report.epoch in self._pasts}
        sums: dict[TimedKind, list[float]] = {}
        for kinds in offs.values():
            for kind, (off, _) in kinds.items():
                total = sums.setdefault(kind, [0.0, 0.0])
                total[0] += off
                total[1] += 1
        symptoms = {}
        for epoch, kinds in offs.items():
            for kind, (off, needed) in kinds.items():
                if off < needed:
                    continue
                others = sums[kind][1] - 1
                if not others:
                    self.suspects.add(epoch)
                elif off - (sums[kind][0] - off) / others >= log(self.ratio):
                    symptoms[epoch] = f"{exp(off):.1f} times slower than it was with {kind[1] if kind[1] != DEFAULT_MODEL else kind[0]}"
        return symptoms

    def forget(self, epoch: str) -> None:
        """Begin anew with what this worker has done lately; its past stands."""
        for past in self._pasts.get(epoch, {}).values():
            past.recent.clear()

    def _learn(self, epoch: str, kind: TimedKind, took: float, now_ms: int) -> None:
        value = log(max(took, SHORTEST))
        pasts = self._pasts.setdefault(epoch, {})
        if kind in pasts:
            pasts[kind].learn(value, now_ms)
        else:
            pasts[kind] = _Past(value)

    def _offs(self, report: WorkerReport, now_ms: int) -> dict[TimedKind, tuple[float, float]]:
        """Kind → how far the worker is off its past, and how far would be too far."""
        running: dict[TimedKind, list[float]] = {}
        pasts = self._pasts[report.epoch]
        for job in report.totals.running:
            kind = (job.task, job.model, job.guessed)
            past = pasts.get(kind)
            if past is not None and past.reads >= READS_MIN and not report.may_load(job):
                running.setdefault(kind, []).append(_overrun(job, past))
        worst_of = {}
        for kind, past in pasts.items():
            worst: tuple[float, float] | None = None
            for off, needed in self._readings(past, running.get(kind, ()), report.concurrency, now_ms):
                if worst is None or off - needed > worst[0] - worst[1]:
                    worst = (off, needed)
            if worst is not None:
                worst_of[kind] = worst
        return worst_of

    def _readings(self, past: _Past, overruns: Iterable[float], slots: int, now_ms: int) -> Iterable[tuple[float, float]]:
        least = log(self.ratio)
        for reads in RECENT:
            latest = past.latest(reads, now_ms)
            if len(latest) >= reads or (latest and reads == RECENT[0]):
                # Fewer than three prove nothing, but peers can be compared with them.
                needed = max(least, SIGMAS * past.scatter / sqrt(len(latest))) if len(latest) >= reads else float("inf")
                yield fmean(latest), needed
        late = sorted(overruns, reverse=True)[: ceil(slots / 2)]
        if len(late) == ceil(slots / 2) and late[-1] > 0:
            # Half of its slots are busy with jobs that should have ended: one reading, however often it is reported.
            yield median(late), max(least, SIGMAS * past.scatter / sqrt(len(late)))


def _overrun(job: Running, past: _Past) -> float:
    return log(max(1, job.age_ms) / (1 if job.guessed else max(1, job.cost_ms))) - past.mean
