"""What a worker still has to tell Redis: leases of jobs that ended here, each with an ack or with how it is given back.

What ends in one round of the consumer's loop goes out in one call. While Redis does not answer, all of it waits for the
next beat.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import islice

import redis

from dispatcher.clock import Clock
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import EpochEnded
from dispatcher.store.worker.lease_pipe import TRANSIENT, LeasePipe
from dispatcher.store.worker.worker_store import WorkerStore

log = logging.getLogger(__name__)

FLUSH_MAX = 500
"""Leases in one call: the scripts take no more."""

LAST_TRIES = 3
"""Tries of a worker that is out of time. The first one finds out that the connection broke meanwhile, the second uses a
new one, and the third is for a failover in between.
"""

LAST_AGAIN_MS = 500
"""A worker that is out of time begins no further try after this: a Redis that is away may take seconds to fail, and the
supervisor's SIGKILL is near.
"""


class Outbox:
    """The leases of a worker process that have ended here and not yet in Redis. Any thread may flush it."""

    def __init__(
        self, store: WorkerStore, pipe: LeasePipe, clock: Clock, lock: threading.Lock, *, reject_backoff_ms: int,
        call_soon: Callable[[Callable[[], None]], object] | None,
    ) -> None:  # fmt: skip
        self.leases: dict[str, GiveBack | None] = {}
        """Lease id → how to give it back, ``None`` for an ack. Guarded by the keeper's lock, so that a lease is held or
        in here.
        """
        self.reachable = True
        """Redis answered when it was last asked. Written False by a failed flush, True by a beat that was answered."""
        self.closed = False
        """This life has ended: Redis is told nothing more."""
        self._store = store
        self._pipe = pipe
        self._clock = clock
        self._lock = lock
        self._flushing = threading.Lock()
        self._reject_backoff_ms = reject_backoff_ms
        self._call_soon = call_soon  # None: there is no loop, so each lease goes out at once
        self._flush_due = False
        self._has_warned = False

    def __len__(self) -> int:
        return len(self.leases)

    def flush_soon(self) -> None:
        """A lease was put in: send it, with what else ends before the loop's next round."""
        if self._call_soon is None:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Send everything, unless Redis was away when last asked: then the next beat does. Never raises."""
        self._flush_due = False
        if self.leases and self.reachable and not self.closed:
            try:
                self._flush()
                self._has_warned = False
            except (*TRANSIENT, redis.RedisError) as exc:
                self.reachable = False
                if self._has_warned:
                    return
                self._has_warned = True
                log.warning("%d ended jobs wait for Redis: %s: %s", len(self.leases), type(exc).__name__, exc)
            except EpochEnded:
                pass  # the next beat learns it, and acts

    def try_all(self) -> bool:
        """Send everything, even if Redis was away when last asked. True when Redis knows all of it. Never raises."""
        self.reachable = True
        self.flush()
        return not self.leases

    def flush_last(self) -> None:
        """Send everything, for a worker that is out of time: try again at once where a try failed at once, as on a
        broken connection.
        """
        began_ms = self._clock.monotonic_ms()
        for _ in range(LAST_TRIES):
            if self.try_all() or self._clock.monotonic_ms() - began_ms >= LAST_AGAIN_MS:
                return

    def loop_restarts(self) -> None:
        """The consumer's loop starts anew: a flush that was asked of the old one may be lost."""
        self.flush()

    def move(self, store: WorkerStore, pipe: LeasePipe) -> None:
        """A new life begins, in a Redis that knows none of the old leases: forget what it was to be told of them."""
        with self._flushing, self._lock:
            self._store, self._pipe = store, pipe
            self.leases.clear()

    def _flush(self) -> None:
        with self._flushing:
            while True:
                with self._lock:
                    batch = list(islice(self.leases.items(), FLUSH_MAX))
                if not batch:
                    return
                acks = [lease_id for lease_id, lease in batch if lease is None]
                returns = [lease for _, lease in batch if lease is not None]
                if acks:
                    try:
                        self._pipe.ack(acks)
                    except EpochEnded:
                        self._forget(batch)  # its leases are others' now
                        raise
                if returns:
                    self._store.giveback(returns[::-1], delay_ms=self._reject_backoff_ms)
                self._forget(batch)

    def _forget(self, batch: list[tuple[str, GiveBack | None]]) -> None:
        with self._lock:
            for lease_id, lease in batch:
                # Unless something newer was put in for it meanwhile.
                if lease_id in self.leases and self.leases[lease_id] is lease:
                    del self.leases[lease_id]
