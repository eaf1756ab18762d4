"""Who has become slow: measured against the worker's own past, and not where its peers have slowed down with it.

An unlike worker is no slow one: its own past is as unlike. All is in logarithms, so that ten times and a tenth are as far from usual.
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

Kind = tuple[str, str, bool]
"""Task, model, and whether its cost is a guess: then time is counted by the job, for guesses change as they are learned."""

LOOKS_MIN: Final = 10
"""So many looks with jobs of the kind ended make a past."""

MEMORY: Final = 100
"""About so many such looks does a past go back; what changes for good is usual after a few times as many."""

RECENT: Final = (3, 10)
"""Over so many looks with jobs ended is a worker compared: few where jobs are alike, more where they vary."""

SIGMAS: Final = 5.0
"""So far beyond its own scatter must it be."""

SCATTER_MIN: Final = 0.2

SHORTEST: Final = 0.01
"""Times come in whole ms, and a job of none says nothing about how short it was."""

STALE_MS: Final = 15_000
"""What was told longer ago says nothing of now."""


@dataclass(slots=True)
class _Past:
    """How long jobs of one kind take on one worker, as the log of time over cost: mean, variance, over how many looks; and the last
    few differences from the mean, with the time of each.
    """

    mean: float
    variance: float = 1.0
    looks: int = 1
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT[-1]))

    @property
    def scatter(self) -> float:
        return max(SCATTER_MIN, sqrt(self.variance)) * (1 + 5 / self.looks)

    def learn(self, value: float, now_ms: int) -> None:
        off = value - self.mean
        if self.looks >= LOOKS_MIN:
            self.recent.append((now_ms, off))
            limit = 2 * self.scatter  # what is far off moves the past a little only
            off = max(-limit, min(limit, off))
        self.looks += 1
        share = 1 / min(self.looks, MEMORY)
        self.mean += share * off
        self.variance += share * (off * off - self.variance)

    def latest(self, looks: int, now_ms: int) -> list[float]:
        found = [off for at_ms, off in self.recent if not is_over(at_ms, STALE_MS, now_ms)]
        return found[-looks:]


@dataclass(slots=True)
class Slowing:
    """``ratio``: how many times slower than it was makes a worker worth a look; 0: never."""

    ratio: float
    suspects: set[str] = field(default_factory=set)
    """Those that are slow at what nobody else does, so that there is nothing to compare with."""
    _pasts: dict[str, dict[Kind, _Past]] = field(default_factory=dict)

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> dict[str, str]:
        """Epoch → what is wrong with it, of those that have become slow while others have not."""
        self.suspects = set()
        if not self.ratio:
            return {}
        for one in deltas:
            said_ms = one.cost_ms - one.guessed_cost_ms
            if said_ms > 0:
                self._learn(one.epoch, (one.task, one.model, False), (one.busy_ms - one.guessed_busy_ms) / said_ms, now_ms)
            if one.guessed > 0:
                self._learn(one.epoch, (one.task, one.model, True), one.guessed_busy_ms / one.guessed, now_ms)
        alive = {one.epoch for one in reports}
        for epoch in self._pasts.keys() - alive:
            del self._pasts[epoch]
        offs = {one.epoch: self._offs(one, now_ms) for one in reports if one.epoch in self._pasts}
        sums: dict[Kind, list[float]] = {}
        for kinds in offs.values():
            for kind, (off, _) in kinds.items():
                total = sums.setdefault(kind, [0.0, 0.0])
                total[0] += off
                total[1] += 1
        found = {}
        for epoch, kinds in offs.items():
            for kind, (off, needed) in kinds.items():
                if off < needed:
                    continue
                others = sums[kind][1] - 1
                if not others:
                    self.suspects.add(epoch)
                elif off - (sums[kind][0] - off) / others >= log(self.ratio):
                    found[epoch] = f"{exp(off):.1f} times slower than it was with {kind[1] if kind[1] != DEFAULT_MODEL else kind[0]}"
        return found

    def forget(self, epoch: str) -> None:
        """Begin anew with what that worker has done lately; its past stands."""
        for past in self._pasts.get(epoch, {}).values():
            past.recent.clear()

    def _learn(self, epoch: str, kind: Kind, took: float, now_ms: int) -> None:
        value = log(max(took, SHORTEST))
        pasts = self._pasts.setdefault(epoch, {})
        if kind in pasts:
            pasts[kind].learn(value, now_ms)
        else:
            pasts[kind] = _Past(value)

    def _offs(self, report: WorkerReport, now_ms: int) -> dict[Kind, tuple[float, float]]:
        """Kind → how far off its past the worker is, and how far would be too far."""
        running: dict[Kind, list[float]] = {}
        pasts = self._pasts[report.epoch]
        for one in report.totals.running:
            kind = (one.task, one.model, one.guessed)
            past = pasts.get(kind)
            if past is not None and past.looks >= LOOKS_MIN and not report.may_load(one):
                running.setdefault(kind, []).append(_overrun(one, past))
        found = {}
        for kind, past in pasts.items():
            worst: tuple[float, float] | None = None
            for off, needed in self._readings(past, running.get(kind, ()), report.concurrency, now_ms):
                if worst is None or off - needed > worst[0] - worst[1]:
                    worst = (off, needed)
            if worst is not None:
                found[kind] = worst
        return found

    def _readings(self, past: _Past, overruns: Iterable[float], slots: int, now_ms: int) -> Iterable[tuple[float, float]]:
        least = log(self.ratio)
        for looks in RECENT:
            latest = past.latest(looks, now_ms)
            if len(latest) >= looks or (latest and looks == RECENT[0]):
                # Fewer than three are told for peers to be compared with, and prove nothing.
                needed = max(least, SIGMAS * past.scatter / sqrt(len(latest))) if len(latest) >= looks else float("inf")
                yield fmean(latest), needed
        late = sorted(overruns, reverse=True)[: ceil(slots / 2)]
        if len(late) == ceil(slots / 2) and late[-1] > 0:
            # Half of its slots are busy with jobs that should have ended: one reading, however often it is told.
            yield median(late), max(least, SIGMAS * past.scatter / sqrt(len(late)))


def _overrun(one: Running, past: _Past) -> float:
    return log(max(1, one.age_ms) / (1 if one.guessed else max(1, one.cost_ms))) - past.mean
