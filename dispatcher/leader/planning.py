"""The plan of one step, made while Redis admits the jobs that it places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from dispatcher.core.choosing.plan import PolicyState
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Assign, Plan
from dispatcher.core.facts.snapshot import Snapshot
from dispatcher.leader.returns.deadlines import LateJobs
from dispatcher.store.leader.admit_batch import AdmitBatch
from dispatcher.store.leader.views import arrivals


@dataclass(slots=True)
class Planner:
    """Makes the plans of one leader."""

    policy: Policy
    rng: Random
    jobs_max: int
    """Jobs that one plan places at most."""
    make: Callable[..., Plan]
    """:func:`~dispatcher.core.choosing.plan.plan`, or a recorder's in its stead."""
    state: PolicyState
    """What choosing remembers from plan to plan."""

    def plan(self, snapshot: Snapshot) -> Plan:
        """Which jobs of the snapshot go to which workers."""
        return self.make(snapshot, self.state, self.policy, rng=self.rng, jobs_max=self.jobs_max)


class StepPlan:
    """One step's batches and plan. ``DispatchStore.apply`` draws the batches and then asks for the assignments, both
    while Redis works on what was sent before; afterwards the rest of the step reads what came of it here.
    """

    def __init__(self, planner: Planner, late_jobs: LateJobs, snapshot: Snapshot) -> None:
        self._planner = planner
        self._late_jobs = late_jobs
        self.snapshot = snapshot
        """What the plan was made from: the jobs that are being admitted count as waiting."""
        self.batches: list[AdmitBatch] = []
        """Those that were drawn."""
        self.decided = Plan((), ())

    def keep(self, batches: Iterable[AdmitBatch]) -> Iterator[AdmitBatch]:
        """Pass the batches on, and keep them for the plan."""
        for batch in batches:
            self.batches.append(batch)
            yield batch

    def assignments(self) -> Sequence[Assign]:
        """Plan: every batch was drawn."""
        self.snapshot = self.snapshot.with_arrivals(arrivals(self.batches, self.snapshot.now_ms))
        self._late_jobs.saw(self.snapshot.lanes)
        self.decided = self._planner.plan(self.snapshot)
        return self.decided.assignments
