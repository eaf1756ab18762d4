"""Takes back jobs that a worker has not begun and another could begin at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.facts.every import Every
from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.returns.recall import FreeSlots, RecallRule, Unstarted, is_crowded, recalled
from dispatcher.events import Event, JobsRecalled
from dispatcher.settings import Settings
from dispatcher.store.leader.dispatch_store import DispatchStore

WORKERS_MAX = 20
"""So many workers' leases are read at most in one step."""


class Recaller:
    """One leader's. Looks once in ``heartbeat_s``, and only where somebody is free while others' jobs wait."""

    def __init__(self, store: DispatchStore, settings: Settings, filters: Sequence[Filter], emit: Callable[[Event], None]) -> None:
        self._store = store
        self._filters = filters
        self._emit = emit
        self._rule = RecallRule(round(settings.recall_after_s * 1000), settings.recalls_max)
        self._time_to_look = Every(round(settings.heartbeat_s * 1000))

    def step(self, workers: Sequence[WorkerView], assigned: Iterable[str], now_ms: int, load_ms: Mapping[str, int]) -> int:
        """How many jobs went back. ``assigned``: epochs that were given jobs since the workers were looked at; ``load_ms``: model → time to
        load it, where known.
        """
        if not self._rule.after_ms or not self._time_to_look.due(now_ms):
            return 0
        crowded = [worker for worker in workers if is_crowded(worker)]
        if not crowded:
            return 0
        free = FreeSlots.of(workers, frozenset(assigned), self._filters, load_ms)
        ended = 0
        for worker in sorted(crowded, key=lambda one: one.taken - one.leases)[:WORKERS_MAX]:
            if not free.any():
                break
            jobs = self._unstarted(worker, now_ms)
            if ids := frozenset(recalled(worker, jobs, free, self._rule)):
                # The newest first, so that the oldest ends at the head of its lane.
                count = self._store.giveback(worker.epoch, [GiveBack(one.lease_id, "recalls") for one in jobs if one.lease_id in ids])
                ended += count
                if count:
                    self._emit(JobsRecalled(worker.name, worker.epoch, count))
        return ended

    def _unstarted(self, worker: WorkerView, now_ms: int) -> list[Unstarted]:
        """Newest job first."""
        found = []
        for lease_id, entry, taken in self._store.leases(worker.epoch):
            if not taken and (lane := parse_lane(entry.lane)).task != PROBE_TASK:
                # The number in a lease's id is the µs at which it was given (`reserve_numbers`), or hardly later.
                given_ms = int(lease_id.rpartition(".")[2]) // 1000
                found.append(Unstarted(lease_id, lane, entry.cost_ms, now_ms - given_ms, entry.recalls))
        return found
