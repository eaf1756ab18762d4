"""Which jobs go back in line because another worker could begin them at once: those that a worker was given and has not begun.

Late binding keeps such jobs few; these are the ones it guessed wrong, where a worker has slowed down or another became free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import load_penalty_ms, time_to_load_ms

NO_LOADS: Final[Mapping[str, int]] = {}

RATIO: Final = 2.0
"""It must be done that many times sooner elsewhere: less is within the error of what is known, and would go to and fro."""


@dataclass(frozen=True, slots=True)
class RecallRule:
    """``after_ms``: how long a job must have waited at its worker, 0 for never; ``times_max``: how often one job may go back so."""

    after_ms: int
    times_max: int


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A job that a worker owes and has not begun, ``waited_ms`` after it was given it. ``recalls``: how often it went back so far."""

    lease_id: str
    lane: Lane
    cost_ms: int
    waited_ms: int
    recalls: int


@dataclass(slots=True)
class FreeSlots:
    """Slots at which a job could begin at once, over the fleet; each is spoken for once."""

    slots: dict[str, int]
    workers: Sequence[WorkerView]
    filters: Sequence[Filter]
    load_ms: Mapping[str, int]

    @classmethod
    def of(
        cls, workers: Sequence[WorkerView], given: frozenset[str], filters: Sequence[Filter], load_ms: Mapping[str, int] = NO_LOADS
    ) -> FreeSlots:
        """``given``: epochs that were assigned jobs since the workers were looked at. Who has not begun what it owes begins no other.

        ``load_ms``: model → time to load it, where known.
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
        """Speak for a slot of another worker at which the job would be done in ``at_least_ms`` divided by :data:`RATIO`."""
        model = job.lane.model
        cold_ms = time_to_load_ms(model, self.load_ms)
        for worker in self.workers:
            if (
                self.slots[worker.epoch] > 0
                and worker.epoch != epoch
                and (job.cost_ms / worker.speed(model) + load_penalty_ms(model, worker, cold_ms)) * RATIO <= at_least_ms
                and all(one.refuses(job.lane, worker) is None for one in self.filters)
            ):
                self.slots[worker.epoch] -= 1
                return True
        return False


def is_crowded(worker: WorkerView) -> bool:
    """Whether it has jobs that it has not begun: it is full, or it does not look at its queue."""
    return worker.ended is None and worker.concurrency > 0 and worker.leases > worker.taken


def recalled(worker: WorkerView, jobs: Sequence[Unstarted], free: FreeSlots, rule: RecallRule) -> list[str]:
    """Lease ids of the jobs of ``worker`` that go back in line, longest waiting first."""
    found = []
    for job in sorted(jobs, key=lambda one: (-one.waited_ms, one.lease_id)):
        if job.waited_ms < rule.after_ms or job.recalls >= rule.times_max or job.lane.slot >= 0:
            continue  # one of a session has its home here, and is not better off elsewhere
        wait_ms = worker.leased_cost_ms / (worker.speed(job.lane.model) * worker.concurrency)
        if free.take(job, worker.epoch, max(wait_ms, job.waited_ms)):
            found.append(job.lease_id)
    return found
