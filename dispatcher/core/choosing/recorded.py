"""Plans written down with all that they were made from, so that they can be made again."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from random import Random

import msgspec

from dispatcher.core.choosing.order.fairness import Accounts
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.snapshot import Snapshot


class RecordedState(msgspec.Struct):
    """:class:`~dispatcher.core.choosing.plan.PolicyState` without its memory, which only saves work."""

    turn: int
    last_turn: dict[str, int]
    passing: float
    passed: dict[str, float]
    accounts: Accounts


class Recorded(msgspec.Struct):
    """What a plan was made from, and the plan."""

    snapshot: Snapshot
    state: RecordedState
    seed: int
    """Seed of the random numbers that the plan drew, which were its own."""
    jobs_max: int
    plan: Plan

    def again(self, policy: Policy) -> Plan:
        """The plan that ``policy`` makes from the same snapshot, state and seed."""
        state = PolicyState(**{name: deepcopy(getattr(self.state, name)) for name in RecordedState.__struct_fields__})
        return plan(self.snapshot, state, policy, rng=Random(self.seed), jobs_max=self.jobs_max)


class Recorder:
    """Makes plans as :func:`plan` does, and writes down those that had jobs to place, each as one line of JSON."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def plan(self, snapshot: Snapshot, state: PolicyState, policy: Policy, *, rng: Random, jobs_max: int) -> Plan:
        """As :func:`plan`; it draws from random numbers of its own, whose seed is from ``rng``."""
        seed = rng.getrandbits(32)
        before = msgspec.json.encode({name: getattr(state, name) for name in RecordedState.__struct_fields__})
        decided = plan(snapshot, state, policy, rng=Random(seed), jobs_max=jobs_max)
        if snapshot.lanes:
            facts = {"snapshot": snapshot, "state": msgspec.Raw(before), "seed": seed, "jobs_max": jobs_max, "plan": decided}
            self._write(msgspec.json.encode(facts) + b"\n")
        return decided
