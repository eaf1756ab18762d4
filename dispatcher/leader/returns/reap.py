"""Takes jobs back: from workers that died or said goodbye, and unstarted ones from workers that drain, stall or are
ejected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.liveness import Liveness
from dispatcher.core.returns.ending import AT_ONCE, BadEnd, Cause, GiveBack, verdict
from dispatcher.events import Event, FleetSilent, WorkerDraining, WorkerReaped, WorkerSilent
from dispatcher.leader.returns.unbegun import UnbegunJobs, owes_unbegun
from dispatcher.leader.telling.unreadable import UnreadableReport
from dispatcher.store.frame import Entry
from dispatcher.store.giveback import GIVEBACK_MAX
from dispatcher.store.leader.dispatch_store import DispatchStore


class Reaper:
    """One leader's reaper. Holds the count of silence, and nothing that a successor would miss."""

    def __init__(
        self,
        store: DispatchStore,
        unbegun: UnbegunJobs,
        unreadable: UnreadableReport,
        emit: Callable[[Event], None],
        *,
        liveness: Liveness,
        stall_ms: int,
        attempts_max: int,
    ) -> None:
        """``stall_ms``: a worker that has not looked at its queue for so long gives back what it has not begun.
        ``attempts_max``: runs of a job that may end with its worker.
        """
        self._store = store
        self._unbegun = unbegun
        self._unreadable = unreadable
        self._emit = emit
        self._liveness = liveness
        self._stall_ms = stall_ms
        self._attempts_max = attempts_max
        self._fleet_was_silent = False
        self._draining: set[str] = set()

    def restart(self) -> None:
        """The lead was gained, or Redis was away: count silence anew, for nobody listened in the meantime."""
        self._liveness.restart()

    def step(self, workers: Sequence[WorkerView], *, now_ms: int, asked_ms: int, heard_ms: int) -> int:
        """Look at every worker once, as Redis showed them (at ``now_ms`` of its clock) between two monotonic times; how
        many leases were ended.
        """
        beats = {worker.epoch: now_ms - worker.beat_age_ms for worker in workers if worker.ended is None}
        silence = self._liveness.look(beats, asked_ms=asked_ms, heard_ms=heard_ms)
        if silence.waiting and not self._fleet_was_silent:
            self._emit(FleetSilent(silence.silent, silence.total))
        self._fleet_was_silent = silence.waiting
        ended = 0
        for worker in workers:
            if worker.draining and worker.epoch not in self._draining:
                self._draining.add(worker.epoch)
                self._emit(WorkerDraining(worker.name, worker.epoch))
            if worker.ended is not None:
                ended += self._reap(worker, worker.ended)
            elif worker.epoch in silence.dead:
                if self._store.end_silent(worker.epoch, beat_age_ms=worker.beat_age_ms):
                    self._emit(WorkerSilent(worker.name, worker.epoch, self._liveness.silent_ms(worker.epoch)))
                    ended += self._reap(worker, "silent")
            elif owes_unbegun(worker) and self._begins_nothing(worker):
                ended += self._unbegun.give_back(worker.epoch, self._unbegun.of(worker.epoch))
        return ended

    def _begins_nothing(self, worker: WorkerView) -> bool:
        """True if the worker is to begin nothing more of what it was given, or cannot."""
        return bool(worker.draining or worker.ejected or max(worker.consume_age_ms, worker.loop_lag_ms) > self._stall_ms)

    def _reap(self, worker: WorkerView, reason: str) -> int:
        """All leases of an ended life go back to the head of their lanes; then it is forgotten.

        A job that was running died with it, unless the worker said goodbye: that one finished what it could, and gives
        back what it cut short. A job that must not be repeated is buried either way.
        """
        leases = self._store.leases(worker.epoch)
        running = sum(taken for _, _, taken in leases)
        ended, buried = 0, 0
        for at in range(0, len(leases), GIVEBACK_MAX):
            part = [
                self._verdict(worker, id_, entry, reason, alone=running == 1) if taken else GiveBack.uncounted(id_)
                for id_, entry, taken in leases[at : at + GIVEBACK_MAX]
            ]
            ended += self._store.giveback(worker.epoch, part)
            buried += sum(lease.bury_at == AT_ONCE for lease in part)
        if self._store.forget_worker(worker.epoch):
            self._draining.discard(worker.epoch)
            self._emit(WorkerReaped(worker.name, worker.epoch, reason, ended - buried, buried))
        elif not leases and worker.leases:
            self._unreadable.report([f"a lease in {self._store.keys.leases(worker.epoch)!r}"])
        return ended

    def _verdict(self, worker: WorkerView, lease_id: str, entry: Entry, reason: str, *, alone: bool) -> GiveBack:
        """How to end the lease of a job that was running."""
        end = BadEnd(
            lease_id,
            Cause.WORKER_LEFT if reason == "goodbye" else Cause.WORKER_DIED,
            f"the worker died ({reason})",
            worker.name,
            worker.epoch,
            alone=alone,
            deaths=entry.deaths,
            at_most_once=parse_lane(entry.lane).task in worker.at_most_once,
        )
        return verdict(end, attempts_max=self._attempts_max)
