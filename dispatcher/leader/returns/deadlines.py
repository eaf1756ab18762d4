"""Buries jobs that were not begun by their deadline: those in lanes, and those that a worker owes and has not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.core.returns.deadlines import JOBS_MAX, Lateness
from dispatcher.events import Event, JobsLate
from dispatcher.leader.returns.unbegun import UnbegunJobs, owes_unbegun
from dispatcher.store.leader.dispatch_store import DispatchStore

LEASES_LOOK_MS: Final = 500
"""Leases are looked through for late jobs this often at most: they are few, and a worker refuses to begin a late one
anyway.
"""

WORKERS_MAX: Final = 20
"""Workers whose leases are read at a time."""


class LateJobs:
    """One leader's search for late jobs. Costs nothing where no job has a deadline."""

    def __init__(self, store: DispatchStore, unbegun: UnbegunJobs, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._unbegun = unbegun
        self._emit = emit
        self.restart()

    def restart(self) -> None:
        """The lead was gained: search anew."""
        self._lateness = Lateness()
        self._time_to_look = Every(LEASES_LOOK_MS)
        self._after_epoch = ""
        self._leased = True  # a job with a deadline may be leased; a new leader does not know
        self._seen = False  # a leased job with a deadline was seen on this way through the workers

    def step(self, lanes: Sequence[LaneView], workers: Sequence[WorkerView], now_ms: int) -> int:
        """Look where late jobs are likely; how many were buried."""
        buried = 0
        if where := self._lateness.where(lanes, now_ms):
            counts = self._store.bury_late(where, limit=JOBS_MAX)
            self._lateness.note(where, counts)
            buried = sum(late for _, late in counts)
        if self._leased and self._time_to_look.due(now_ms):
            buried += self._bury_leased(workers, now_ms)
        self.report(buried)
        return buried

    def saw(self, lanes: Iterable[LaneView]) -> None:
        """These lanes have jobs that may be leased next."""
        self._leased = self._leased or any(lane.lane.deadline_class for lane in lanes)

    def report(self, buried: int) -> None:
        """Emit that jobs were buried for being late, here or elsewhere."""
        if buried:
            self._emit(JobsLate(buried))

    def _bury_leased(self, workers: Sequence[WorkerView], now_ms: int) -> int:
        """Look at some workers in turn. After a way through all of them without a job that has a deadline, there is
        none until the next is seen.
        """
        crowded = sorted((worker for worker in workers if owes_unbegun(worker)), key=lambda worker: worker.epoch)
        part = [worker for worker in crowded if worker.epoch > self._after_epoch][:WORKERS_MAX]
        buried = 0
        for worker in part:
            jobs = [job for job in self._unbegun.of(worker.epoch) if job.entry.deadline_ms]
            self._seen = self._seen or bool(jobs)
            buried += self._unbegun.bury_late(worker.epoch, [job for job in jobs if job.entry.deadline_ms <= now_ms])
        if part and part[-1] is not crowded[-1]:
            self._after_epoch = part[-1].epoch
        else:
            self._leased, self._seen, self._after_epoch = self._seen, False, ""
        return buried
