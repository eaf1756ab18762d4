"""A worker life in a test: what a real worker does with Redis, by the same two clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dispatcher.store.frame import Entry, parse_entry
from dispatcher.store.worker.lease_pipe import TRANSIENT, LeasePipe
from dispatcher.store.worker.worker_store import WorkerStore


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that this life has started."""

    lease_id: str
    message: bytes
    """As the producer sent it."""
    entry: Entry


class Life(WorkerStore):
    """A worker's store, and the pipe by which it takes and acks."""

    @cached_property
    def pipe(self) -> LeasePipe:
        """Made when it is needed: each has a connection of its own."""
        return LeasePipe(self._client, self.keys, self.epoch)

    def take(self, lease_id: str, *, at_ms: int = 1) -> Taken | None:
        """Start the job of a lease that was popped; ``None`` if it may not be started."""
        started, _ = self.pipe.take(lease_id.encode(), at_ms)
        return Taken(lease_id, started[0].message, parse_entry(started[0].entry.decode())) if started else None

    def finds_late(self, lease_id: str) -> bool:
        """True if a take is refused because the job's deadline has passed, so that the job must be buried."""
        return self.pipe.take(lease_id.encode(), 1) == ([], [lease_id])

    def ack(self, lease_ids: Sequence[str]) -> int:
        """End leases of jobs that have ended, again where the connection broke; how many there were. Raises :class:`EpochEnded`."""
        try:
            return self.pipe.ack(lease_ids)
        except TRANSIENT:
            return self.pipe.ack(lease_ids)
