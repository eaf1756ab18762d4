"""What a worker holds: jobs from take to ack or giveback, compared with each beat to what Redis says is leased here.

One keeper for each worker process; it outlives every connection. Written by the consumer's loop and, in the threads
pool, by the threads that run jobs; read by the beat thread too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dispatcher.clock import Clock
from dispatcher.core.facts.evidence import Memory
from dispatcher.core.returns.ending import GiveBack
from dispatcher.store.worker.lease_pipe import OTHERS_MAX, LeasePipe
from dispatcher.store.worker.worker_store import Beat, WorkerStore
from dispatcher.worker.life.held import Held, Outcome
from dispatcher.worker.life.outbox import Outbox
from dispatcher.worker.life.totals import Totals

log = logging.getLogger(__name__)

LOAD_MIN_MS = 5
"""A job that took less has not waited for a model: a look for loads costs some µs."""

PAST_MAX = 10_000
"""So many ended leases are remembered. A Redis that lost its last writes may offer one of them again; it is not run
again.
"""

LoadingTime = Callable[[int, str, int, int], int]


def _no_time(*_job: object) -> int:
    return 0


class LeaseKeeper:
    """Takes, holds and ends the leases of a worker process, in all its lives."""

    def __init__(
        self, store: WorkerStore, pipe: LeasePipe, clock: Clock, *, reject_backoff_ms: int,
        call_soon: Callable[[Callable[[], None]], object] | None = None, loading_ms: LoadingTime = _no_time,
    ) -> None:  # fmt: skip
        """``call_soon`` runs a function in the consumer's loop, soon; ``None`` where there is no loop, and acks go out
        where they arise.

        ``loading_ms``: how much of a job's time went into loading a model, from process, model, begin and end
        (monotonic clock).
        """
        self._pipe = pipe
        self._clock = clock
        self._loading_ms = loading_ms
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self.outbox = Outbox(store, pipe, clock, self._lock, reject_backoff_ms=reject_backoff_ms, call_soon=call_soon)
        self._past: dict[str, bool] = {}
        """Leases that ended here → True if acked, False if given back."""
        self._taking = False
        """A take is under way: what it started is leased, and not held yet."""
        self._loose: frozenset[str] = frozenset()
        """Leases that nobody held at the last beat."""
        self._looked_ms = clock.monotonic_ms()
        self._redis_ahead_ms = 0
        """Redis' clock less the monotonic clock, as of the last answer that carried a time."""
        self._totals = Totals()
        self.limit = 0
        """How many jobs the consumer may hold (kombu's prefetch count)."""
        self.paused = False
        """Draining: takes nothing. Written by the beat thread."""
        self.ended = False
        """This life is over: starts nothing, tells Redis nothing. Set by :meth:`end`."""

    # -- taking

    def can_take(self, limit: int) -> bool:
        """True while the consumer may look for another job; ``limit`` of 0 means any number."""
        return not self.paused and not self.ended and (not limit or len(self._held) < limit)

    def looked(self) -> None:
        """The consumer asked for jobs and got an answer."""
        self._looked_ms = self._clock.monotonic_ms()

    def take(self, lease_id: bytes) -> list[tuple[str, Held]]:
        """Take the job of a lease that was popped, and as many that are next in the queue as may be held. Returns the
        lease id and the job of each that was taken. Raises what redis-py raises.

        After an error Redis may count these jobs as taken. The keeper does not hold them, so two beats later they are
        given back.
        """
        with self._lock:
            if self.ended or lease_id.decode(errors="replace") in self._past:
                return []
            others = min(OTHERS_MAX, self.limit - len(self._held) - 1) if self.limit else OTHERS_MAX
            self._taking = True
        try:
            started, overdue = self._pipe.take(lease_id, self._clock.monotonic_ms() + self._redis_ahead_ms, max(0, others))
            with self._lock:
                # A Redis that lost its last writes may offer jobs that already run or ended here. They are skipped:
                # their leases end again when the job ends, or two beats later.
                new = [job for job in started if job.lease_id not in self._past and job.lease_id not in self._held]
                taken = [(job.lease_id, Held(job.message, job.entry)) for job in new]
                self._held.update(taken)
                self.outbox.leases.update((name, GiveBack.late(name)) for name in overdue)
        finally:
            self._taking = False
        if overdue:
            self.outbox.flush_soon()
        return taken

    @property
    def revoked_at(self) -> bytes | None:
        """When a job was last revoked, as of the last take."""
        return self._pipe.revoked_at

    def started(self, lease_id: str, at_ms: int, pid: int = 0) -> None:
        """The pool has begun to run it, in process ``pid``, at ``at_ms`` of this machine's monotonic clock."""
        held = self._held.get(lease_id)
        if held is not None:
            held.started_ms, held.pid = at_ms, pid

    def busy_ms(self, held: Held, monotonic_ms: int) -> int:
        """How long a job that was begun has run by now, less the time in which its model was being loaded."""
        busy_ms = max(0, monotonic_ms - (held.started_ms or 0))
        if busy_ms < LOAD_MIN_MS:
            return busy_ms
        return busy_ms - self._loading_ms(held.pid, held.model, monotonic_ms - busy_ms, monotonic_ms)

    # -- ending. None of these raises, or waits for Redis.

    def ack(self, lease_id: str, outcome: Outcome) -> None:
        """The job has ended."""
        self._end(lease_id, None, outcome)

    def give_back(self, lease: GiveBack) -> None:
        """The job did not end: it goes back in line, or is buried. It counts as failed here if it may be to blame."""
        self._end(lease.lease_id, lease, Outcome.FAILED if lease.counter == "crashes" else Outcome.REJECTED)

    def return_untaken(self, lease_id: str) -> None:
        """An id was popped while nothing may be started."""
        with self._lock:
            self.outbox.leases[lease_id] = GiveBack.recalled(lease_id)
        self.outbox.flush_soon()

    def return_unbegun(self) -> None:
        """Give back the jobs that no pool has begun, uncounted. Called at an end, when nothing runs any more."""
        for lease_id in [lease_id for lease_id, held in self.held().items() if held.started_ms is None]:
            self.give_back(GiveBack.uncounted(lease_id))

    def _end(self, lease_id: str, lease: GiveBack | None, outcome: Outcome) -> None:
        monotonic_ms = self._clock.monotonic_ms()
        with self._lock:
            held = self._held.pop(lease_id, None)
            if held is None:  # ended before
                return
            self.outbox.leases[lease_id] = lease
            self._remember(lease_id, acked=lease is None)
            if held.started_ms is not None:
                self._totals.ended(held, outcome, self.busy_ms(held, monotonic_ms))
            self._looked_ms = monotonic_ms  # from here on it has credit, so from here on it should look at its queue
        self.outbox.flush_soon()

    def _remember(self, lease_id: str, *, acked: bool) -> None:
        self._past[lease_id] = acked
        if len(self._past) > PAST_MAX:
            del self._past[next(iter(self._past))]

    # -- the beat thread's part

    def answered(self, beat: Beat) -> None:
        """A beat was answered: reconcile what Redis says is leased with what is held, then send the outbox.

        A lease that is neither queued, held nor in the outbox, in two beats in a row, is held by nobody: a pop or a
        take whose answer was lost, or an ack that Redis lost. It is given back, or acked again.
        """
        self.outbox.reachable = True
        self.heard_time(beat.now_ms)
        with self._lock:
            known = self._held.keys() | self.outbox.leases.keys()
            loose = frozenset(id_ for id_ in beat.leases - beat.queued if id_ not in known and not self._taking)
            for lease_id in sorted(loose & self._loose):
                if self._past.get(lease_id):
                    self.outbox.leases[lease_id] = None
                else:
                    log.warning("lease %s is held by nobody: giving it back", lease_id)
                    self.outbox.leases[lease_id] = GiveBack.uncounted(lease_id)
                    self._remember(lease_id, acked=False)
            self._loose = loose
        self.outbox.flush()

    def heard_time(self, now_ms: int) -> None:
        """Redis has just said that it is ``now_ms``."""
        self._redis_ahead_ms = now_ms - self._clock.monotonic_ms()

    def recall(self, queued: frozenset[str]) -> None:
        """Give back what was assigned and not taken."""
        with self._lock:
            for lease_id in sorted(queued - self._held.keys() - self.outbox.leases.keys()):
                self.outbox.leases[lease_id] = GiveBack.recalled(lease_id)
        self.outbox.flush()

    def move(self, store: WorkerStore, pipe: LeasePipe) -> None:
        """A new life begins in this process: Redis lost the old one.

        What is held runs on, under the ids that it has, and is adopted by the new life.
        """
        old, self._pipe = self._pipe, pipe
        with self._lock:
            self._totals.begin_life()
            self._loose = frozenset()
        self.outbox.move(store, pipe)
        old.close()

    def held(self) -> dict[str, Held]:
        """What is held now."""
        with self._lock:
            return dict(self._held)

    @property
    def unsent(self) -> int:
        """How many ended jobs Redis does not know of yet."""
        return len(self.outbox)

    def facts(self) -> dict[str, int]:
        """What a beat carries: ``done, failed, retried, busy_ms`` since the worker began, ``running, held,
        consume_age_ms`` now.
        """
        jobs = list(self.held().values())
        has_credit = self.can_take(self.limit)
        return {
            **self._totals.facts(),
            "running": sum(1 for held in jobs if held.started_ms is not None),
            "held": len(jobs),
            "consume_age_ms": self._clock.monotonic_ms() - self._looked_ms if has_credit else 0,
        }

    def totals(self, memory: Memory | None = None, changes: int = 0) -> bytes:
        """What a beat says about the kinds of jobs that were run in this life, about what runs, about the models in
        memory, and how often the registration has changed: JSON of ``WorkerTotals``.
        """
        with self._lock:
            monotonic_ms = self._clock.monotonic_ms()
            return self._totals.encoded(self._held.values(), lambda held: self.busy_ms(held, monotonic_ms), memory, changes)

    def resume(self) -> None:
        """Take jobs again after a pause."""
        self.looked()
        self.paused = False

    def end(self) -> None:
        """This life is over."""
        self.ended = self.outbox.closed = True

    def close(self) -> None:
        self._pipe.close()
