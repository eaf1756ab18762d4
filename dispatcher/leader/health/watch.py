"""Finds faulty workers, and says so: the loop around ``core/health.py``, and the probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.ejection import Change, Ejected, Health, HealthRule, Panic, Returned
from dispatcher.core.health.probing import Probing
from dispatcher.events import Event, FleetPanic, WorkerEjected, WorkerReturned
from dispatcher.leader.health.probe import Prober
from dispatcher.settings import Settings
from dispatcher.store.leader.dispatch_store import DispatchStore


class HealthWatch:
    """One leader's. ``learner`` is its subscriber of the evidence."""

    def __init__(self, store: DispatchStore, settings: Settings, emit: Callable[[Event], None], *, probes: bool) -> None:
        probing = Probing(round(settings.probe_interval_s * 1000) if probes else 0, round(settings.probe_timeout_s * 1000))
        self.learner = Health(_rule(settings), probing)
        self._prober = Prober(store, probing)
        self._emit = emit
        self._interval_ms = round(settings.heartbeat_s * 1000)
        self._time_to_judge = Every(self._interval_ms)
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


def _rule(settings: Settings) -> HealthRule:
    return HealthRule(
        failures_in_row=settings.eject_failures,
        slow_ratio=settings.eject_slow_ratio,
        base_ms=round(settings.eject_base_s * 1000),
        share_max=settings.eject_max_share,
        panic_share=settings.panic_share,
        slow_start_ms=round(settings.slow_start_s * 1000),
        new_start_ms=round(settings.slow_start_new_s * 1000),
        stall_ms=round(settings.stall_s * 1000),
    )


def _event(change: Change) -> Event:
    match change:
        case Ejected(ejection, span_ms):
            return WorkerEjected(ejection.name, ejection.epoch, ejection.reason, span_ms)
        case Returned(ejection):
            return WorkerReturned(ejection.name, ejection.epoch, ejection.reason)
        case Panic(on, healthy, total):
            return FleetPanic(on, healthy, total)
