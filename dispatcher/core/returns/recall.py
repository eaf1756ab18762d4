"""Which jobs go back in line because another worker could begin them at once: jobs that a worker was given and has not
begun.

Late binding keeps such jobs few: a worker has slowed down, or another has become free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import load_penalty_ms, time_to_load_ms

NO_LOADS: Final[Mapping[str, int]] = {}

RATIO: Final = 2.0
"""A job must be done so many times sooner elsewhere: less is within the error of what is known, and jobs would go to
and fro.
"""


@dataclass(frozen=True, slots=True)
class RecallRule:
    """When a job may be recalled."""

    after_ms: int
    """A job must have waited so long at its worker."""
    times_max: int
    """One job may be recalled so often."""


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A job that a worker owes and has not begun."""

    lease_id: str
    lane: Lane
    cost_ms: int
    waited_ms: int
    """How long ago the worker was given it."""
    recalls: int
    """How often it was recalled so far."""


@dataclass(slots=True)
class FreeSlots:
    """Slots of the fleet at which a job could begin at once. Each is given away once."""

    slots: dict[str, int]
    """Epoch → its free slots."""
    workers: Sequence[WorkerView]
    filters: Sequence[Filter]
    load_ms: Mapping[str, int]

    @classmethod
    def of(
        cls, workers: Sequence[WorkerView], given: frozenset[str], filters: Sequence[Filter], load_ms: Mapping[str, int] = NO_LOADS
    ) -> FreeSlots:
        """Count the free slots. A worker with unstarted leases has none. ``given``: epochs that were assigned jobs
        since the workers were looked at. ``load_ms``: model → time to load it, where known.
        """
        free = {
            worker.epoch: min(worker.concurrency - worker.leases, worker.room)
            for worker in workers
            if worker.epoch not in given and worker.taken == worker.leases < worker.concurrency and worker.room
        }
        return cls(free, [worker for worker in workers if worker.epoch in free], filters, load_ms)

    def any(self) -> bool:
        return any(self.slots.values())

    def take(self, job: Unstarted, epoch: str, at_least_ms: float) -> bool:
        """Take a slot of another worker at which the job would be done within ``at_least_ms`` / :data:`RATIO`; False if
        there is none.
        """
        model = job.lane.model
        cold_ms = time_to_load_ms(model, self.load_ms)
        for worker in self.workers:
            if (
                self.slots[worker.epoch] > 0
                and worker.epoch != epoch
                and (job.cost_ms / worker.speed(model) + load_penalty_ms(model, worker, cold_ms)) * RATIO <= at_least_ms
                and all(rule.refuses(job.lane, worker) is None for rule in self.filters)
            ):
                self.slots[worker.epoch] -= 1
                return True
        return False


def is_crowded(worker: WorkerView) -> bool:
    """True if the worker has jobs that it has not begun: it is full, or it does not look at its queue."""
    return worker.ended is None and worker.concurrency > 0 and worker.leases > worker.taken


def recalled(worker: WorkerView, jobs: Sequence[Unstarted], free: FreeSlots, rule: RecallRule) -> list[str]:
    """Lease ids of the jobs of ``worker`` that go back in line, longest waiting first."""
    lease_ids = []
    for job in sorted(jobs, key=lambda job: (-job.waited_ms, job.lease_id)):
        if job.waited_ms < rule.after_ms or job.recalls >= rule.times_max or job.lane.slot >= 0:
            continue  # a job of a session has its home here, and is not better off elsewhere
        wait_ms = worker.leased_cost_ms / (worker.speed(job.lane.model) * worker.concurrency)
        if free.take(job, worker.epoch, max(wait_ms, job.waited_ms)):
            lease_ids.append(job.lease_id)
    return lease_ids
