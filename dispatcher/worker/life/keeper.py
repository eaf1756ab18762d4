"""What a worker holds, from take to ack or giveback, and what it still has to tell Redis about jobs that ended.

One for each worker life; it outlives every connection. Written by the consumer's loop and, in the threads pool, by the threads
that run jobs; read by the beat thread too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import islice

import redis

from dispatcher.clock import Clock
from dispatcher.core.facts.evidence import PROBE_TASK, Memory
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import EpochEnded
from dispatcher.store.worker.lease_pipe import OTHERS_MAX, TRANSIENT, LeasePipe
from dispatcher.store.worker.worker_store import Beat, WorkerStore
from dispatcher.worker.life.held import Held, Outcome
from dispatcher.worker.life.totals import Totals

log = logging.getLogger(__name__)

FLUSH_MAX = 500
LOAD_MIN_MS = 5
"""A job that took less has not waited for a model: a look for loads costs some µs."""
LAST_TRIES = 3
LAST_AGAIN_MS = 500
PAST_MAX = 10_000
"""How many ended leases are remembered, so that one which Redis shows again (it lost its last writes) is not run again."""


LoadingTime = Callable[[int, str, int, int], int]


def _no_time(*_job: object) -> int:
    return 0


class LeaseKeeper:
    """Takes, holds and ends the leases of one worker life."""

    def __init__(self, store: WorkerStore, pipe: LeasePipe, clock: Clock, *, reject_backoff_ms: int) -> None:
        self._store = store
        self._pipe = pipe
        self._clock = clock
        self._reject_backoff_ms = reject_backoff_ms
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._held: dict[str, Held] = {}
        self._outbox: dict[str, GiveBack | None] = {}
        self._past: dict[str, bool] = {}  # lease id -> was acked (else: given back)
        self._taking = False
        self._loose: frozenset[str] = frozenset()
        self._flush_due = False
        self._told_unsent = False
        self._seen_ms = clock.monotonic_ms()
        self._redis_ahead_ms = 0
        self._totals = dict.fromkeys(Outcome, 0)
        self._busy_ms = 0
        self._kinds = Totals()
        self.loading_ms: LoadingTime = _no_time
        """How much of a job's time went into loading a model: of process, model, from and to in ms of the monotonic clock."""
        self.limit = 0
        """How many jobs the consumer may hold (kombu's prefetch count)."""
        self.paused = False
        """Draining: takes nothing. Written by the beat thread."""
        self.ended = False
        """This life was declared dead: starts nothing, tells Redis nothing."""
        self.reachable = True
        """Whether Redis answered last time. Written False by a failed flush, True by a beat that was answered."""
        self.call_soon: Callable[[Callable[[], None]], object] | None = None
        """Runs a function in the consumer's loop, soon. ``None``: there is no loop, acks go out where they arise."""

    # -- taking

    def can_take(self, limit: int) -> bool:
        """Whether the consumer may look for another job; ``limit`` of 0 means any number."""
        return not self.paused and not self.ended and (not limit or len(self._held) < limit)

    def looked(self) -> None:
        """The consumer asked for jobs and got an answer."""
        self._seen_ms = self._clock.monotonic_ms()

    def take(self, lease_id: bytes) -> list[tuple[str, Held]]:
        """Start the job of a lease that was popped, and as many of those that stand next in the queue as may be held, too: lease id and
        job of each that was started. Raises what redis-py raises.

        After an error they may have been taken in Redis: they are not held here, so two beats later they are given back.
        """
        with self._lock:
            if self.ended or lease_id.decode(errors="replace") in self._past:
                return []
            others = min(OTHERS_MAX, self.limit - len(self._held) - 1) if self.limit else OTHERS_MAX
            self._taking = True
        try:
            started, overdue = self._pipe.take(lease_id, self._clock.monotonic_ms() + self._redis_ahead_ms, max(0, others))
            with self._lock:
                # One that runs or has ended here is shown again by a Redis that lost its last writes: it ends again, then or in two beats.
                new = [one for one in started if one.lease_id not in self._past and one.lease_id not in self._held]
                found = [(one.lease_id, Held(one.message, one.entry)) for one in new]
                self._held.update(found)
                self._outbox.update((name, GiveBack.late(name)) for name in overdue)
        finally:
            self._taking = False
        if overdue:
            self._flush_soon()
        return found

    @property
    def revoked_at(self) -> bytes | None:
        """When something was last revoked, as of the last take."""
        return self._pipe.revoked_at

    def started(self, lease_id: str, at_ms: int, pid: int = 0) -> None:
        """The pool has begun to run it, in process ``pid``, at ``at_ms`` of this machine's monotonic clock."""
        held = self._held.get(lease_id)
        if held is not None:
            held.started_ms, held.pid = at_ms, pid

    def busy_ms(self, held: Held, now_ms: int) -> int:
        """How long a job that was begun has run by now, less the time in which its model was being loaded."""
        busy_ms = max(0, now_ms - (held.started_ms or 0))
        if busy_ms < LOAD_MIN_MS:
            return busy_ms
        return busy_ms - self.loading_ms(held.pid, held.model, now_ms - busy_ms, now_ms)

    # -- ending. None of these raises, or waits for Redis.

    def ack(self, lease_id: str, outcome: Outcome) -> None:
        """The job has ended."""
        self._end(lease_id, None, outcome)

    def give_back(self, lease: GiveBack) -> None:
        """The job did not end: back in line, or buried. Counted as failed here where the job may be to blame."""
        self._end(lease.lease_id, lease, Outcome.FAILED if lease.counter == "crashes" else Outcome.REJECTED)

    def return_untaken(self, lease_id: str) -> None:
        """An id was popped while nothing may be started."""
        with self._lock:
            self._outbox[lease_id] = GiveBack.recalled(lease_id)
        self._flush_soon()

    def return_unbegun(self) -> None:
        """What no pool has begun goes back in line as it was: at an end, when nothing runs any more."""
        for lease_id in [lease_id for lease_id, held in self.held().items() if held.started_ms is None]:
            self.give_back(GiveBack.uncounted(lease_id))

    def _end(self, lease_id: str, lease: GiveBack | None, outcome: Outcome) -> None:
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            held = self._held.pop(lease_id, None)
            if held is None:  # ended before
                return
            self._outbox[lease_id] = lease
            self._remember(lease_id, acked=lease is None)
            if held.started_ms is not None:
                self._count(held, outcome, self.busy_ms(held, now_ms))
            self._seen_ms = now_ms  # from here on it has credit, so from here on it should look at its queue
        self._flush_soon()

    def _count(self, held: Held, outcome: Outcome, busy_ms: int) -> None:
        if held.task == PROBE_TASK:
            self._kinds.probed(well=outcome is Outcome.DONE)
            return
        self._totals[outcome] += 1
        self._busy_ms += busy_ms
        if outcome is Outcome.DONE:
            self._kinds.done(held.entry, busy_ms, guessed=held.guessed)
        elif outcome is Outcome.FAILED:
            self._kinds.failed(held.entry)
        elif outcome is Outcome.RETRIED:
            self._kinds.retried(held.entry)

    def _remember(self, lease_id: str, *, acked: bool) -> None:
        self._past[lease_id] = acked
        if len(self._past) > PAST_MAX:
            del self._past[next(iter(self._past))]

    # -- telling Redis

    def _flush_soon(self) -> None:
        if self.call_soon is None:
            self.flush()
        elif not self._flush_due:
            # What ends in one turn of the loop goes out together, at the start of the next one.
            self._flush_due = True
            self.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is in the outbox, unless Redis was away when last asked: then the next beat does. Never raises."""
        self._flush_due = False
        if self._outbox and self.reachable and not self.ended:
            try:
                self._flush()
                self._told_unsent = False
            except (*TRANSIENT, redis.RedisError) as exc:
                self.reachable = False
                if self._told_unsent:
                    return
                self._told_unsent = True
                log.warning("%d ended jobs wait for Redis: %s: %s", len(self._outbox), type(exc).__name__, exc)
            except EpochEnded:
                pass  # the next beat learns it, and acts

    def flush_last(self) -> None:
        """Send what is in the outbox, whether or not Redis answered when last asked; again where that failed at once, as it does when a
        connection was broken. Never raises.
        """
        began_ms = self._clock.monotonic_ms()
        for _ in range(LAST_TRIES):
            if self._outbox and self._clock.monotonic_ms() - began_ms < LAST_AGAIN_MS:
                self.reachable = True
                self.flush()

    def _flush(self) -> None:
        with self._flushing:
            while True:
                with self._lock:
                    batch = list(islice(self._outbox.items(), FLUSH_MAX))
                if not batch:
                    return
                acks = [lease_id for lease_id, lease in batch if lease is None]
                returns = [lease for _, lease in batch if lease is not None]
                if acks and self._pipe.ack(acks) < 0:
                    self._forget(batch)
                    raise EpochEnded(f"worker life {self._store.epoch} was declared dead")
                if returns:
                    self._store.giveback(returns[::-1], delay_ms=self._reject_backoff_ms)
                self._forget(batch)

    def _forget(self, batch: list[tuple[str, GiveBack | None]]) -> None:
        with self._lock:
            for lease_id, lease in batch:
                # Unless something newer was said of it meanwhile.
                if lease_id in self._outbox and self._outbox[lease_id] is lease:
                    del self._outbox[lease_id]

    # -- the beat thread's part

    def answered(self, beat: Beat) -> None:
        """A beat was answered: reconcile what Redis says is leased with what is held, then send the outbox.

        A lease that is neither queued, held nor in the outbox, in two beats in a row, is held by nobody: a pop or a take whose
        answer was lost, or an ack that Redis lost. It is given back, or acked again.
        """
        self.reachable = True
        self.heard_time(beat.now_ms)
        with self._lock:
            known = self._held.keys() | self._outbox.keys()
            loose = frozenset(id_ for id_ in beat.leases - beat.queued if id_ not in known and not self._taking)
            for lease_id in sorted(loose & self._loose):
                if self._past.get(lease_id):
                    self._outbox[lease_id] = None
                else:
                    log.warning("lease %s is held by nobody: giving it back", lease_id)
                    self._outbox[lease_id] = GiveBack.uncounted(lease_id)
                    self._remember(lease_id, acked=False)
            self._loose = loose
        self.flush()

    def heard_time(self, now_ms: int) -> None:
        """Redis has just said that it is ``now_ms``."""
        self._redis_ahead_ms = now_ms - self._clock.monotonic_ms()

    def recall(self, queued: frozenset[str]) -> None:
        """Give back what was assigned and not taken."""
        with self._lock:
            for lease_id in sorted(queued - self._held.keys() - self._outbox.keys()):
                self._outbox[lease_id] = GiveBack.recalled(lease_id)
        self.flush()

    def move(self, store: WorkerStore, pipe: LeasePipe) -> None:
        """A new life begins in this process: Redis lost the old one.

        What is held runs on, under the ids that it has, and is adopted by the new life.
        """
        with self._flushing, self._lock:
            self._store, old, self._pipe = store, self._pipe, pipe
            self._outbox.clear()
            self._kinds = Totals()  # they are told by life
            self._loose = frozenset()
        old.close()

    def held(self) -> dict[str, Held]:
        """What is held now."""
        with self._lock:
            return dict(self._held)

    @property
    def unsent(self) -> int:
        """How many ended jobs Redis does not know of yet."""
        return len(self._outbox)

    def facts(self) -> dict[str, int]:
        """What a beat carries: ``done, failed, retried, busy_ms`` since the life began, ``running, held, consume_age_ms`` now."""
        held = list(self.held().values())
        has_credit = self.can_take(self.limit)
        return {
            "done": self._totals[Outcome.DONE],
            "failed": self._totals[Outcome.FAILED],
            "retried": self._totals[Outcome.RETRIED],
            "busy_ms": self._busy_ms,
            "running": sum(1 for one in held if one.started_ms is not None),
            "held": len(held),
            "consume_age_ms": self._clock.monotonic_ms() - self._seen_ms if has_credit else 0,
        }

    def totals(self, memory: Memory | None = None) -> bytes:
        """What a beat tells of the kinds of jobs that were run in this life, of what runs, and of the models in memory: JSON of
        ``WorkerTotals``.
        """
        with self._lock:
            now_ms = self._clock.monotonic_ms()
            return self._kinds.encoded(self._held.values(), lambda held: self.busy_ms(held, now_ms), memory)

    def resume(self) -> None:
        """Take jobs again after a pause."""
        self.looked()
        self.paused = False

    def loop_restarts(self) -> None:
        """A flush that was asked of the old loop may be lost."""
        self._flush_due = False
        self.flush()

    def close(self) -> None:
        self._pipe.close()
