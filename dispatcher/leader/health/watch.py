"""Ejects faulty workers, returns them, and emits both: the loop around ``core/health/ejection.py``, and around the
probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.ejection import Change, Ejected, Health, Panic, Returned
from dispatcher.events import Event, FleetPanic, WorkerEjected, WorkerReturned
from dispatcher.leader.health.probe import Prober


class HealthWatch:
    """One leader's. ``learner`` is its subscriber of the evidence."""

    def __init__(self, learner: Health, prober: Prober, emit: Callable[[Event], None], *, interval_ms: int) -> None:
        self.learner = learner
        self._prober = prober
        self._emit = emit
        self._interval_ms = interval_ms
        self._time_to_judge = Every(interval_ms)
        self._judged_at_ms = 0

    def step(self, workers: Sequence[WorkerView], now_ms: int) -> None:
        """Once a beat, after the evidence was read. Raises what redis-py raises, and ``NotLeader``."""
        if not self._time_to_judge.due(now_ms):
            return
        # Less than an interval, or far more, is a clock that was set.
        elapsed_ms = min(max(now_ms - self._judged_at_ms, self._interval_ms), 10 * self._interval_ms)
        self._judged_at_ms = now_ms
        for change in self.learner.judge(workers, now_ms):
            self._emit(_event(change))
        self._prober.step(workers, now_ms, elapsed_ms)

    def standing(self, epoch: str, now_ms: int) -> tuple[str, float]:
        """Why the worker gets nothing ("": it does), and the share of its speed that it is trusted with."""
        return self.learner.standing(epoch, now_ms)


def _event(change: Change) -> Event:
    match change:
        case Ejected(ejection, span_ms):
            return WorkerEjected(ejection.name, ejection.epoch, ejection.reason, span_ms)
        case Returned(ejection):
            return WorkerReturned(ejection.name, ejection.epoch, ejection.reason)
        case Panic(on, healthy, total):
            return FleetPanic(on, healthy, total)
