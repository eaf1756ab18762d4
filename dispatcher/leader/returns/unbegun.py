"""Jobs that workers owe and have not begun: they may go back in line, or be buried. Each worker's leases are read at
most once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import Lane, parse_lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import Invalid
from dispatcher.store.frame import Entry
from dispatcher.store.giveback import GIVEBACK_MAX
from dispatcher.store.leader.dispatch_store import DispatchStore


@dataclass(frozen=True, slots=True)
class UnbegunJob:
    """A leased job that its worker had not begun when the lease was read."""

    lease_id: str
    entry: Entry
    lane: Lane


def owes_unbegun(worker: WorkerView) -> bool:
    """True if the worker lives and has leases that it has not taken."""
    return worker.ended is None and worker.leases > worker.taken


class UnbegunJobs:
    """The unbegun jobs of every worker, as one step of the leader reads them. Never a probe: it was given to just that
    worker.

    A job that was begun since the read stays where it is: the script ends only leases that were not taken.
    """

    def __init__(self, store: DispatchStore) -> None:
        self._store = store
        self._jobs: dict[str, list[UnbegunJob]] = {}

    def forget(self) -> None:
        """A new step begins: what was read in the last does not hold."""
        self._jobs.clear()

    def of(self, epoch: str) -> Sequence[UnbegunJob]:
        """The worker's unbegun jobs, the newest first. Raises what redis-py raises."""
        if epoch not in self._jobs:
            self._jobs[epoch] = jobs = []
            for lease_id, entry, taken in self._store.leases(epoch):
                if not taken:
                    with suppress(Invalid):  # not a lane's name: nobody could tell where the job belongs
                        lane = parse_lane(entry.lane)
                        if lane.task != PROBE_TASK:
                            jobs.append(UnbegunJob(lease_id, entry, lane))
        return tuple(self._jobs[epoch])

    def give_back(self, epoch: str, jobs: Sequence[UnbegunJob]) -> int:
        """Put jobs of that worker back at the head of their lanes. How many went back: at most :data:`GIVEBACK_MAX`,
        the first ones.

        ``jobs`` are in the order of :meth:`of`, so that the oldest ends at the head of its lane, in this call or a
        later step's.
        """
        return self._end(epoch, [GiveBack.recalled(job.lease_id) for job in jobs[:GIVEBACK_MAX]])

    def bury_late(self, epoch: str, jobs: Sequence[UnbegunJob]) -> int:
        """Bury jobs of that worker whose deadline has passed. How many were buried: at most :data:`GIVEBACK_MAX`."""
        return self._end(epoch, [GiveBack.late(job.lease_id) for job in jobs[:GIVEBACK_MAX]])

    def _end(self, epoch: str, leases: Sequence[GiveBack]) -> int:
        if not leases:
            return 0
        ended = {lease.lease_id for lease in leases}
        self._jobs[epoch] = [job for job in self._jobs.get(epoch, ()) if job.lease_id not in ended]
        return self._store.giveback(epoch, leases)
