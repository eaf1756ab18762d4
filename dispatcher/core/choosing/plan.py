"""``plan``: which jobs go to which workers now. Pure: a snapshot in, decisions with their reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random

from dispatcher.core.choosing.order.caps import Allowance
from dispatcher.core.choosing.order.fairness import Accounts
from dispatcher.core.choosing.place.loads import Loads
from dispatcher.core.choosing.place.roster import Roster
from dispatcher.core.choosing.plan_builder import PlanBuilder
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Assign, Hold, Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView, is_paused


@dataclass(slots=True)
class PolicyState:
    """What choosing remembers from plan to plan."""

    turn: int = 0
    """How many choices were made so far by strategies that take turns."""

    last_turn: dict[str, int] = field(default_factory=dict)
    """Epoch → the turn at which the worker was chosen last. Kept only for a strategy that takes turns."""

    passing: float = 0.0
    """Virtual time of the worker that was chosen last (weighted round robin)."""

    passed: dict[str, float] = field(default_factory=dict)
    """Epoch → virtual time of the worker: the turns that it had, each counted as 1 / capacity. Kept as ``last_turn``
    is.
    """

    accounts: Accounts = field(default_factory=Accounts)
    """What each tenant has been given."""

    memory: Roster = field(default_factory=Roster)
    """What was derived from the last snapshot. It only saves work."""


def plan(snapshot: Snapshot, state: PolicyState, policy: Policy, *, rng: Random, jobs_max: int = 500) -> Plan:
    """Place up to ``jobs_max`` waiting jobs.

    Lanes of a higher priority (lower step, ageing included) are served first; inside a priority the tenant that has
    been given least for its weight; inside a tenant what is urgent, then as ``policy.order`` says. Among the workers
    that every filter passes and that have room, the lowest score wins; ties fall to ``rng``, never to the order of a
    dict. A lane waits only if its queue is paused, every worker refuses it, all that may have it are full, a cap is
    reached, it is held for a full worker, or ``jobs_max`` is used up. ``state`` is updated.
    """
    loads = Loads(snapshot.workers, policy, state.memory, snapshot.load_ms, rng)
    allowance = Allowance(policy.caps, snapshot.leased_ms) if policy.caps else None
    builder = PlanBuilder(snapshot, policy, state.accounts, loads, allowance, jobs_left=jobs_max, turn=state.turn)
    takes_turns = any(strategy.turns for strategy in (policy.strategy, *policy.of_model.values()))
    began = _begin_turns(snapshot.workers, loads, state) if takes_turns else []
    state.accounts.begin({view.lane.tenant for view in snapshot.lanes})
    lanes, paused = _unpaused(snapshot)
    for group in _by_priority(lanes, policy.ageing_ms, snapshot.now_ms):
        builder.serve(group)
    if takes_turns:
        _end_turns(snapshot.workers, loads, state, began)
        state.turn = builder.turn
    state.accounts.forget()
    return Plan(_assignments(builder, state.memory), tuple(sorted([*paused, *builder.holds], key=_lane_of)))


def _assignments(builder: PlanBuilder, roster: Roster) -> tuple[Assign, ...]:
    epochs, windows = roster.epochs, roster.windows
    return tuple(
        Assign(lane, epochs[index], int(count), windows[index], score)
        for lane, waiting in builder.waiting.items()
        for index, (count, score) in waiting.placed.items()
    )


_lane_of = attrgetter("lane")


# -- which lanes are served, and in which groups


def _unpaused(snapshot: Snapshot) -> tuple[Sequence[LaneView], list[Hold]]:
    """The lanes whose queue is not paused, and a hold for each of the others."""
    paused = snapshot.paused
    if not paused:
        return snapshot.lanes, []
    lanes, holds = [], []
    for view in snapshot.lanes:
        if is_paused(view.lane.ingress, paused):
            holds.append(Hold(view.name, "paused", view.depth, {}))
        else:
            lanes.append(view)
    return lanes, holds


def _by_priority(lanes: Sequence[LaneView], ageing_ms: int, now_ms: int) -> list[Sequence[LaneView]]:
    """Groups of lanes of the same priority, the group that is served first at the front.

    With ageing, a lane rises by one priority for each ``ageing_ms`` that its next job has waited.
    """
    steps = sorted({view.lane.step for view in lanes})
    if len(steps) <= 1:
        return [lanes] if lanes else []
    groups: list[list[LaneView]] = [[] for _ in steps]
    rank_of = {step: rank for rank, step in enumerate(steps)}
    for view in lanes:
        risen = (now_ms - view.admitted_ms) // ageing_ms if ageing_ms else 0
        groups[max(0, rank_of[view.lane.step] - max(0, risen))].append(view)
    return [*groups]


# -- whose turn it is


def _begin_turns(workers: Sequence[WorkerView], loads: Loads, state: PolicyState) -> list[float]:
    """Virtual time of each worker (weighted round robin). A worker that was away or full does not catch up; a new one
    starts half a stride in, so that new workers do not all get the first jobs at once.
    """
    began = []
    for index, worker in enumerate(workers):
        load = loads.load(index)
        load.last_turn = state.last_turn.get(worker.epoch, 0)
        if worker.concurrency:
            load.stride = 1 / worker.capacity
        before = state.passed.get(worker.epoch)
        load.passed = state.passing + load.stride / 2 if before is None else max(before, state.passing)
        began.append(load.passed)
    return began


def _end_turns(workers: Sequence[WorkerView], loads: Loads, state: PolicyState, began: Sequence[float]) -> None:
    """Keep whose turn it was for the next plan. ``began``: where each worker stood when this one began."""
    ended = [loads.load(index) for index in range(len(workers))]
    state.last_turn = {worker.epoch: int(load.last_turn) for worker, load in zip(workers, ended, strict=True)}
    state.passed = {worker.epoch: load.passed for worker, load in zip(workers, ended, strict=True)}
    reached = [load.passed - load.stride for load, before in zip(ended, began, strict=True) if load.passed > before]
    state.passing = max(reached, default=state.passing)
