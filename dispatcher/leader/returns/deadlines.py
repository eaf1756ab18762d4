"""Buries jobs that were not begun by their deadline: those in lanes, and those that a worker owes and has not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.core.returns.deadlines import JOBS_MAX, Lateness
from dispatcher.core.returns.ending import GiveBack
from dispatcher.events import Event, JobsLate
from dispatcher.store.leader.dispatch_store import DispatchStore

LEASES_LOOK_MS: Final = 500
"""Leases are looked through for late jobs this often at most: they are few, and a worker refuses to begin a late one anyway."""

WORKERS_MAX: Final = 20
"""Workers whose leases are read at a time."""


class LateJobs:
    """One leader's search for them. Costs nothing where no job has a deadline."""

    def __init__(self, store: DispatchStore, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._emit = emit
        self._lateness = Lateness()
        self._time_to_look = Every(LEASES_LOOK_MS)
        self._after_epoch = ""
        self._leased = True  # a job with a deadline may be leased; a new leader does not know
        self._seen = False  # one was found on this way through the workers

    def step(self, lanes: Sequence[LaneView], workers: Sequence[WorkerView], now_ms: int) -> int:
        """Look where late jobs are likely; how many were buried."""
        buried = 0
        if where := self._lateness.where(lanes, now_ms):
            found = self._store.bury_late(where, limit=JOBS_MAX)
            self._lateness.found(where, found)
            buried = sum(count for _, count in found)
        if self._leased and self._time_to_look.due(now_ms):
            buried += self._bury_leased(workers, now_ms)
        self.tell(buried)
        return buried

    def saw(self, lanes: Iterable[LaneView]) -> None:
        """These lanes have jobs that may be leased next."""
        self._leased = self._leased or any(lane.lane.deadline_class for lane in lanes)

    def tell(self, buried: int) -> None:
        """Jobs were buried for being late, here or elsewhere."""
        if buried:
            self._emit(JobsLate(buried))

    def _bury_leased(self, workers: Sequence[WorkerView], now_ms: int) -> int:
        """Of some workers in turn. When a whole way through them finds no job with a deadline, there is none until the next is seen."""
        waiting = sorted((one for one in workers if one.ended is None and one.leases > one.taken), key=lambda one: one.epoch)
        part = [one for one in waiting if one.epoch > self._after_epoch][:WORKERS_MAX]
        buried = 0
        for worker in part:
            leases = [(id_, entry.deadline_ms) for id_, entry, taken in self._store.leases(worker.epoch) if entry.deadline_ms and not taken]
            self._seen = self._seen or bool(leases)
            if overdue := [GiveBack.late(id_) for id_, deadline_ms in leases if deadline_ms <= now_ms][:JOBS_MAX]:
                buried += self._store.giveback(worker.epoch, overdue)
        if part and part[-1] is not waiting[-1]:
            self._after_epoch = part[-1].epoch
        else:
            self._leased, self._seen, self._after_epoch = self._seen, False, ""
        return buried
