"""Takes jobs back: from workers that died or said goodbye, and unstarted ones from workers that drain, stall or are ejected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.liveness import Liveness
from dispatcher.core.returns.ending import AT_ONCE, BadEnd, Cause, GiveBack, verdict
from dispatcher.events import Event, FleetSilent, Unreadable, WorkerDraining, WorkerReaped, WorkerSilent
from dispatcher.settings import Settings
from dispatcher.store.frame import Entry
from dispatcher.store.leader.dispatch_store import DispatchStore

CALL_MAX = 500
"""Leases that one script call ends at most."""


class Reaper:
    """One leader's reaper. Holds the count of silence, and nothing that a successor would miss."""

    def __init__(self, store: DispatchStore, settings: Settings, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._settings = settings
        self._emit = emit
        self._lease_ttl_ms = round(settings.lease_ttl_s * 1000)
        self._stall_ms = round(settings.stall_s * 1000)
        self._fleet_was_silent = False
        self._draining: set[str] = set()
        self._unreadable: set[str] = set()
        self.liveness = Liveness(self._lease_ttl_ms)

    def step(self, workers: Sequence[WorkerView], *, now_ms: int, asked_ms: int, heard_ms: int) -> int:
        """Look at every worker once, as Redis showed them (at ``now_ms`` of its clock) between two monotonic times; how many leases were
        ended.
        """
        beats = {worker.epoch: now_ms - worker.beat_age_ms for worker in workers if worker.ended is None}
        verdict = self.liveness.look(beats, asked_ms=asked_ms, heard_ms=heard_ms)
        if verdict.waiting and not self._fleet_was_silent:
            self._emit(FleetSilent(verdict.silent, verdict.total))
        self._fleet_was_silent = verdict.waiting
        ended = 0
        for worker in workers:
            if worker.draining and worker.epoch not in self._draining:
                self._draining.add(worker.epoch)
                self._emit(WorkerDraining(worker.name, worker.epoch))
            if worker.ended is not None:
                ended += self._reap(worker, worker.ended)
            elif worker.epoch in verdict.dead:
                if self._store.end_silent(worker.epoch, beat_age_ms=worker.beat_age_ms):
                    self._emit(WorkerSilent(worker.name, worker.epoch, self.liveness.silent_ms(worker.epoch)))
                    ended += self._reap(worker, "silent")
            elif worker.leases > worker.taken and self._gets_nothing(worker):
                ended += self._recall(worker)
        return ended

    def _gets_nothing(self, worker: WorkerView) -> bool:
        """Whether it is to begin nothing more of what it was given."""
        return bool(worker.draining or worker.ejected or max(worker.consume_age_ms, worker.loop_lag_ms) > self._stall_ms)

    def _reap(self, worker: WorkerView, reason: str) -> int:
        """All leases of an ended life go back to the head of their lanes; then it is forgotten.

        A job that was running died with it, unless the worker said goodbye: that one finished what it could, and gives back what it
        cut short. A job that must not be repeated is buried either way.
        """
        leases = self._store.leases(worker.epoch)
        running = sum(taken for _, _, taken in leases)
        ended, buried = 0, 0
        for at in range(0, len(leases), CALL_MAX):
            part = [
                self._verdict(worker, id_, entry, reason, alone=running == 1) if taken else GiveBack.uncounted(id_)
                for id_, entry, taken in leases[at : at + CALL_MAX]
            ]
            ended += self._store.giveback(worker.epoch, part)
            buried += sum(lease.bury_at == AT_ONCE for lease in part)
        if self._store.forget_worker(worker.epoch):
            self._draining.discard(worker.epoch)
            self._emit(WorkerReaped(worker.name, worker.epoch, reason, ended - buried, buried))
        elif not leases and worker.leases and worker.epoch not in self._unreadable:
            self._unreadable.add(worker.epoch)
            self._emit(Unreadable(f"a lease in {self._store.keys.leases(worker.epoch)!r}"))
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
        return verdict(end, attempts_max=self._settings.attempts_max)

    def _recall(self, worker: WorkerView) -> int:
        """Never a probe: it was given to just this worker."""
        leases = [
            GiveBack.recalled(id_)
            for id_, entry, taken in self._store.leases(worker.epoch)
            if not taken and parse_lane(entry.lane).task != PROBE_TASK
        ]
        return self._store.giveback(worker.epoch, leases[:CALL_MAX]) if leases else 0
