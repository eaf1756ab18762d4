"""Takes back jobs that a worker has not begun and another could begin at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.returns.recall import FreeSlots, RecallRule, Unstarted, is_crowded, recalled
from dispatcher.events import Event, JobsRecalled
from dispatcher.leader.returns.unbegun import UnbegunJob, UnbegunJobs

WORKERS_MAX = 20
"""Workers whose leases one step reads at most."""


class Recaller:
    """One leader's. Looks once in ``interval_ms``, and only where a worker is free while jobs wait at others."""

    def __init__(
        self, unbegun: UnbegunJobs, rule: RecallRule, filters: Sequence[Filter], emit: Callable[[Event], None], *, interval_ms: int
    ) -> None:
        self._unbegun = unbegun
        self._rule = rule
        self._filters = filters
        self._emit = emit
        self._time_to_look = Every(interval_ms)
        self._seen_ms: dict[str, int] = {}
        """Lease id → when the lease was first seen, where its id lies in the future and does not tell when it was
        given.
        """

    def step(self, workers: Sequence[WorkerView], assigned: Iterable[str], now_ms: int, load_ms: Mapping[str, int]) -> int:
        """How many jobs went back. ``assigned``: epochs that were given jobs since the workers were looked at;
        ``load_ms``: model → time to load it, where known.
        """
        if not self._rule.after_ms or not self._time_to_look.due(now_ms):
            return 0
        crowded = [worker for worker in workers if is_crowded(worker)]
        if not crowded:
            return 0
        seen_ms, self._seen_ms = self._seen_ms, {}
        free = FreeSlots.of(workers, frozenset(assigned), self._filters, load_ms)
        ended = 0
        for worker in sorted(crowded, key=lambda worker: worker.taken - worker.leases)[:WORKERS_MAX]:
            if not free.any():
                break
            jobs = self._unbegun.of(worker.epoch)
            chosen = frozenset(recalled(worker, [self._unstarted(job, now_ms, seen_ms) for job in jobs], free, self._rule))
            if count := self._unbegun.give_back(worker.epoch, [job for job in jobs if job.lease_id in chosen]):
                ended += count
                self._emit(JobsRecalled(worker.name, worker.epoch, count))
        return ended

    def _unstarted(self, job: UnbegunJob, now_ms: int, seen_ms: Mapping[str, int]) -> Unstarted:
        # The number in a lease's id is the µs at which it was given (`reserve_numbers`), or hardly later.
        given_ms = int(job.lease_id.rpartition(".")[2]) // 1000
        if given_ms > now_ms:  # Redis' clock was set back, and numbers go on from before
            given_ms = self._seen_ms[job.lease_id] = min(now_ms, seen_ms.get(job.lease_id, now_ms))
        return Unstarted(job.lease_id, job.lane, job.entry.cost_ms, now_ms - given_ms, job.entry.recalls)
