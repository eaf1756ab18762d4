"""``plan``: which jobs go to which workers now. Pure: a snapshot in, decisions with their reasons out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random

from dispatcher.core.balancing.base import Strategy
from dispatcher.core.caps import Allowance
from dispatcher.core.decisions import Assign, Hold, Plan
from dispatcher.core.fairness import Accounts
from dispatcher.core.fleet import INFINITE, Candidates, Fleet, Memory
from dispatcher.core.ordering import is_urgent
from dispatcher.core.policy import Policy
from dispatcher.core.snapshot import LaneView, Snapshot, WorkerView


@dataclass(slots=True)
class PolicyState:
    """What choosing remembers from plan to plan: whose turn it was, as a count of choices and in turns weighted by capacity, and what
    each tenant has been given. ``memory`` only saves work.

    ``passed`` (epoch → how far on) and ``passing`` (how far on the last one chosen was) are kept only for a strategy that weighs turns.
    """

    turn: int = 0
    last_turn: dict[str, int] = field(default_factory=dict)
    passing: float = 0.0
    passed: dict[str, float] = field(default_factory=dict)
    accounts: Accounts = field(default_factory=Accounts)
    memory: Memory = field(default_factory=Memory)


@dataclass(slots=True)
class _Waiting:
    """A lane while its jobs are placed. ``heap`` of (score, tie, place) is as fresh as when it was made: a score in it may be too good.

    ``beyond``: no place that is not in the heap is better than this. ``home``: place of its slot's worker, -1 without. ``held``:
    index of a full worker → jobs that wait for it; ``reason`` why.
    """

    view: LaneView
    left: int
    strategy: Strategy
    candidates: Candidates
    ratio: float
    home: int
    home_wait_ms: float
    may_leave_home: bool
    heap: list[tuple[float, float, int]] = field(default_factory=list)
    beyond: float = -INFINITE
    held: dict[int, int] = field(default_factory=dict)
    reason: str = "full"


@dataclass(slots=True)
class _Round:
    """One plan while it grows."""

    snapshot: Snapshot
    policy: Policy
    state: PolicyState
    fleet: Fleet
    rng: Random
    left: int
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # lane → epoch → jobs
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    allowance: Allowance | None = None


def plan(snapshot: Snapshot, state: PolicyState, policy: Policy, *, rng: Random, jobs_max: int = 500) -> Plan:
    """Place up to ``jobs_max`` waiting jobs.

    Lanes of a higher priority (lower step, ageing included) are served first; inside a priority the tenant that has been given least
    for its weight; inside a tenant what is urgent, then as ``policy.order`` says. Among the workers that every filter passes and that
    have room, the lowest score wins; ties fall to ``rng``, never to the order of a dict. Work-conserving but for holds: a lane waits
    only if every worker refuses it, all that may have it are full, or it waits for one of those. ``state`` is updated.
    """
    fleet = Fleet(snapshot.workers, policy, state.memory, snapshot.load_ms, rng)
    growing = _Round(snapshot, policy, state, fleet, rng, jobs_max)
    if policy.caps:
        growing.allowance = Allowance(policy.caps, snapshot.leased_ms)
    turns = {one.turns for one in (policy.strategy, *policy.of_model.values())} - {""}
    began = _begin_turns(snapshot.workers, fleet, state) if turns else []
    state.accounts.begin({view.lane.tenant for view in snapshot.lanes})
    for lanes in _by_priority(_unpaused(growing), policy.ageing_ms, snapshot.now_ms):
        _serve(lanes, growing)
    windows = {worker.epoch: worker.window for worker in snapshot.workers}
    assignments = tuple(
        Assign(lane, epoch, count, windows[epoch], growing.scores[lane, epoch])
        for lane, placed in growing.counts.items()
        for epoch, count in placed.items()
    )
    if turns:
        _end_turns(snapshot.workers, fleet, state, began)
    state.accounts.forget()
    return Plan(assignments, tuple(sorted(growing.holds, key=_lane_of)))


_lane_of = attrgetter("lane")


# -- whose turn it is


def _begin_turns(workers: Sequence[WorkerView], fleet: Fleet, state: PolicyState) -> list[float]:
    """How far on each is. Who was away or full does not make up for it; who is new begins in the middle of a turn: not all together."""
    began = []
    for index, worker in enumerate(workers):
        load = fleet.load(index)
        load.last_turn = state.last_turn.get(worker.epoch, 0)
        if worker.concurrency:
            load.stride = 1 / worker.capacity
        before = state.passed.get(worker.epoch)
        load.passed = state.passing + load.stride / 2 if before is None else max(before, state.passing)
        began.append(load.passed)
    return began


def _end_turns(workers: Sequence[WorkerView], fleet: Fleet, state: PolicyState, began: list[float]) -> None:
    loads = [fleet.load(index) for index in range(len(workers))]
    state.last_turn = {worker.epoch: int(load.last_turn) for worker, load in zip(workers, loads, strict=True)}
    state.passed = {worker.epoch: load.passed for worker, load in zip(workers, loads, strict=True)}
    reached = [load.passed - load.stride for load, before in zip(loads, began, strict=True) if load.passed > before]
    state.passing = max(reached, default=state.passing)


# -- which lane is next


def _unpaused(growing: _Round) -> list[LaneView]:
    paused = growing.snapshot.paused
    if not paused:
        return list(growing.snapshot.lanes)
    found = []
    for view in growing.snapshot.lanes:
        if "*" in paused or view.lane.ingress in paused:
            growing.holds.append(Hold(view.name, "paused", view.depth, {}))
        else:
            found.append(view)
    return found


def _by_priority(lanes: list[LaneView], ageing_ms: int, now_ms: int) -> list[list[LaneView]]:
    """Lanes of one priority together, the one served first at the front. With ageing, a lane counts as one that stands as many
    priorities higher as ``ageing_ms`` goes into the waiting time of its next job.
    """
    steps = sorted({view.lane.step for view in lanes})
    if len(steps) <= 1:
        return [lanes] if lanes else []
    groups: list[list[LaneView]] = [[] for _ in steps]
    at = {step: i for i, step in enumerate(steps)}
    for view in lanes:
        risen = (now_ms - view.admitted_ms) // ageing_ms if ageing_ms else 0
        groups[max(0, at[view.lane.step] - max(0, risen))].append(view)
    return groups


_Ranked = tuple[int, float, int, int, str, _Waiting]


def _rank(waiting: _Waiting, growing: _Round) -> _Ranked:
    """Lanes that rank the same take turns."""
    view, now_ms, placed = waiting.view, growing.snapshot.now_ms, waiting.view.depth - waiting.left
    if is_urgent(view, now_ms):
        return 0, view.deadline_ms, placed, view.job, view.name, waiting
    return 1, growing.policy.order.rank(view, now_ms, placed), placed, view.job, view.name, waiting


def _serve(lanes: Sequence[LaneView], growing: _Round) -> None:
    """Place jobs of these lanes, one at a time, until all are placed or held, or no more may be placed."""
    tenants: dict[str, list[_Ranked]] = {}
    for view in lanes:
        if growing.left <= 0:
            return
        waiting = _waiting(view, growing)
        if waiting is not None:
            tenants.setdefault(view.lane.tenant, []).append(_rank(waiting, growing))
    for heap in tenants.values():
        heapq.heapify(heap)
    accounts, weights = growing.state.accounts, growing.policy.tenant_weights
    while tenants and growing.left > 0:
        tenant = min(tenants, key=lambda one: (accounts.given[one], one)) if len(tenants) > 1 else next(iter(tenants))
        heap = tenants[tenant]
        waiting = heap[0][-1]
        alone = len(tenants) == 1 and len(heap) == 1
        given, done = _place(waiting, growing.left if alone else 1, growing)
        if given:
            accounts.charge(tenant, given * waiting.view.cost_ms, weights)
        if not done:
            heapq.heapreplace(heap, _rank(waiting, growing))
        else:
            heapq.heappop(heap)
            _note_held(waiting, growing)
            if not heap:
                del tenants[tenant]


def _waiting(view: LaneView, growing: _Round) -> _Waiting | None:
    """The lane with its candidates, or a hold."""
    fleet, policy, lane = growing.fleet, growing.policy, view.lane
    candidates = fleet.candidates(lane)
    if not fleet.has_room(candidates):
        growing.holds.append(Hold(view.name, "full" if candidates.indices else "unroutable", view.depth, {}))
        return None
    strategy = policy.strategy_of(lane.model)
    age_ms = growing.snapshot.now_ms - view.admitted_ms
    hold, sticky = policy.hold, policy.sticky
    waiting = _Waiting(
        view,
        view.depth,
        strategy,
        candidates,
        ratio=hold.ratio if hold is not None and strategy.timed and age_ms <= hold.hold_max_ms else 0.0,
        home=-1,
        home_wait_ms=0.0,
        may_leave_home=True,
    )
    if sticky is not None and lane.slot >= 0:
        waiting.home = fleet.home(candidates, lane.slot)
        waiting.may_leave_home = not sticky.required
        if age_ms <= (sticky.hold_max_ms if strategy.timed else sticky.wait_ms):
            waiting.home_wait_ms = sticky.wait_ms
    return waiting


def _note_held(waiting: _Waiting, growing: _Round) -> None:
    held = sum(waiting.held.values())
    if waiting.left or held:
        names = {growing.snapshot.workers[index].epoch: count for index, count in waiting.held.items()}
        growing.holds.append(Hold(waiting.view.name, waiting.reason, waiting.left + held, names))


# -- who gets the job


def _place(waiting: _Waiting, most: int, growing: _Round) -> tuple[int, bool]:
    """Place or hold up to ``most`` jobs of one lane. How many were given to workers, and whether there is no more to do for this lane."""
    fleet, state, view, candidates = growing.fleet, growing.state, waiting.view, waiting.candidates
    cost_ms, workers, windows = max(1, view.cost_ms), fleet.workers, fleet.windows
    takes_turns = waiting.strategy.turns != ""
    allowance = growing.allowance
    placed = growing.counts.setdefault(view.name, {})
    given = looked = 0
    while looked < most and waiting.left > 0:
        if not fleet.has_room(candidates):
            return given, True
        if allowance is not None and (refusal := allowance.refuses(view.lane, cost_ms)) is not None:
            waiting.reason = refusal
            return given, True
        place, score = _choose(waiting, growing)
        if place < 0:
            return given, True
        index = candidates.indices[place]
        looked += 1
        waiting.left -= 1
        if fleet.load(index).leases >= windows[index]:
            # It waits for this one. What comes after it sees the worker as if it had it already.
            waiting.held[index] = waiting.held.get(index, 0) + 1
            fleet.owe(index, cost_ms)
            continue
        fleet.owe(index, cost_ms)
        growing.left -= 1
        given += 1
        if allowance is not None:
            allowance.take(view.lane, cost_ms)
        if takes_turns:
            state.turn += 1
            fleet.took_turn(index, state.turn)
        epoch = workers[index].epoch
        if epoch in placed:
            placed[epoch] += 1
        else:
            placed[epoch] = 1
            growing.scores[view.name, epoch] = score
    return given, waiting.left == 0


def _choose(waiting: _Waiting, growing: _Round) -> tuple[int, float]:
    """(place, score) of the worker that the next job goes to, or waits for if it is full; place -1 where all are full."""
    if waiting.home < 0:
        return _best(waiting, growing)
    fleet, home, strategy = growing.fleet, waiting.home, waiting.strategy
    index = waiting.candidates.indices[home]
    full = fleet.load(index).leases >= fleet.windows[index]
    score = fleet.score(waiting.candidates, home, strategy, max(1, waiting.view.cost_ms))
    if not waiting.may_leave_home or (not strategy.timed and (not full or waiting.home_wait_ms)):
        waiting.reason = "sticky"
        return home, score
    if full and not waiting.home_wait_ms:
        return _best(waiting, growing)
    place, best = _best(waiting, growing)
    if place < 0 and full:
        return place, best
    if place < 0 or score - waiting.home_wait_ms <= best:
        waiting.reason = "sticky"
        return home, score
    return place, best


def _best(waiting: _Waiting, growing: _Round) -> tuple[int, float]:
    """Loads only grow while a plan does, so a stale score is one that is too good: it is computed again when it comes up."""
    fleet, strategy, candidates, ratio = growing.fleet, waiting.strategy, waiting.candidates, waiting.ratio
    cost_ms, heap, windows, indices = max(1, waiting.view.cost_ms), waiting.heap, fleet.windows, candidates.indices
    if strategy.draws:
        return _drawn(waiting, growing)
    draw = growing.rng.random
    while True:
        if not heap or heap[0][0] > waiting.beyond:
            if not heap and waiting.beyond == INFINITE:
                return -1, 0.0
            heap, waiting.beyond = fleet.best(candidates, strategy, cost_ms, ratio)
            waiting.heap = heap
            if not heap:
                return -1, 0.0
        score, _, place = heap[0]
        index = indices[place]
        now = fleet.score(candidates, place, strategy, cost_ms)
        if fleet.load(index).leases >= windows[index]:
            if not ratio:
                heapq.heappop(heap)
                continue
            now *= ratio
            waiting.reason = "sooner_elsewhere"
        if now > score:
            heapq.heapreplace(heap, (now, draw(), place))
            continue
        return place, now


def _drawn(waiting: _Waiting, growing: _Round) -> tuple[int, float]:
    """The best of a few different places with room drawn by chance. The heap serves as a plain list: the drawn go to its end, and a
    full one is dropped from it when it is met.
    """
    fleet, strategy, candidates, random = growing.fleet, waiting.strategy, waiting.candidates, growing.rng.random
    cost_ms, windows, indices = max(1, waiting.view.cost_ms), fleet.windows, candidates.indices
    if waiting.beyond != INFINITE:
        waiting.heap, waiting.beyond = [(0.0, 0.0, place) for place in range(len(indices))], INFINITE
    pool, kept = waiting.heap, 0
    best, chosen = 0.0, -1
    while kept < strategy.draws and (among := len(pool) - kept) > 0:
        at = int(random() * among)
        place = pool[at][2]
        index = indices[place]
        if fleet.load(index).leases >= windows[index]:
            pool[at] = pool[among - 1]
            pool[among - 1] = pool[-1]
            pool.pop()
            continue
        score = fleet.score(candidates, place, strategy, cost_ms)
        if chosen < 0 or score < best:
            best, chosen = score, place
        kept += 1
        pool[at], pool[among - 1] = pool[among - 1], pool[at]
    return chosen, best
