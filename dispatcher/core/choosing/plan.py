"""``plan``: which jobs go to which workers now. Pure: a snapshot in, decisions with their reasons out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random

import msgspec

from dispatcher.core.choosing.order.caps import Allowance
from dispatcher.core.choosing.order.fairness import Accounts
from dispatcher.core.choosing.order.ordering import is_urgent
from dispatcher.core.choosing.place.loads import Fleet, Ranking
from dispatcher.core.choosing.place.roster import Roster
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Assign, Hold, Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView, is_paused

PATIENCE_LOADS = 8
"""A job that needs a load is served after those that need none, unless it has waited for so many loads longer: so that a busy worker
spends a ninth of its time with loading at most, and no model waits for ever.
"""


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
    memory: Roster = field(default_factory=Roster)


class _Waiting(msgspec.Struct):
    """A lane while its jobs are placed. ``home``: place of its slot's worker, -1 without. ``held``: index of a full worker → jobs that
    wait for it; ``reason`` why. ``placed``: index → [how many, score of the first]. ``deferred``: jobs that need no load come first.
    """

    view: LaneView
    left: int
    ranking: Ranking
    home: int
    home_wait_ms: float
    may_leave_home: bool
    placed: dict[int, list[float]] = msgspec.field(default_factory=dict)
    held: dict[int, int] = msgspec.field(default_factory=dict)
    reason: str = "full"
    deferred: bool = False


class _Round(msgspec.Struct):
    """One plan while it grows."""

    snapshot: Snapshot
    policy: Policy
    state: PolicyState
    fleet: Fleet
    left: int
    waiting: dict[str, _Waiting] = msgspec.field(default_factory=dict)  # lanes that have been begun with, by name
    holds: list[Hold] = msgspec.field(default_factory=list)
    allowance: Allowance | None = None
    oldest_ms: dict[str, int] = msgspec.field(default_factory=dict)  # model → since when jobs of it wait; empty where loads may be made


def plan(snapshot: Snapshot, state: PolicyState, policy: Policy, *, rng: Random, jobs_max: int = 500) -> Plan:
    """Place up to ``jobs_max`` waiting jobs.

    Lanes of a higher priority (lower step, ageing included) are served first; inside a priority the tenant that has been given least
    for its weight; inside a tenant what is urgent, then as ``policy.order`` says. Among the workers that every filter passes and that
    have room, the lowest score wins; ties fall to ``rng``, never to the order of a dict. Work-conserving but for holds: a lane waits
    only if every worker refuses it, all that may have it are full, or it waits for one of those. ``state`` is updated.
    """
    fleet = Fleet(snapshot.workers, policy, state.memory, snapshot.load_ms, rng)
    growing = _Round(snapshot, policy, state, fleet, jobs_max)
    if policy.caps:
        growing.allowance = Allowance(policy.caps, snapshot.leased_ms)
    turns = {one.turns for one in (policy.strategy, *policy.of_model.values())} - {""}
    began = _begin_turns(snapshot.workers, fleet, state) if turns else []
    state.accounts.begin({view.lane.tenant for view in snapshot.lanes})
    for lanes in _by_priority(_unpaused(growing), policy.ageing_ms, snapshot.now_ms):
        _serve(lanes, growing)
    epochs, windows = state.memory.epochs, fleet.windows
    assignments = tuple(
        Assign(lane, epochs[index], int(count), windows[index], score)
        for lane, waiting in growing.waiting.items()
        for index, (count, score) in waiting.placed.items()
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
        if is_paused(view.lane.ingress, paused):
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


_Ranked = tuple[int, float, int, int, str, LaneView]


def _rank(view: LaneView, placed: int, growing: _Round) -> _Ranked:
    """Lanes that rank the same take turns. ``placed``: how many of its jobs are placed or held already."""
    now_ms = growing.snapshot.now_ms
    if view.deadline_ms and is_urgent(view, now_ms):
        return 0, view.deadline_ms, placed, view.job, view.name, view
    return 1, growing.policy.order.rank(view, now_ms, placed), placed, view.job, view.name, view


def _oldest(lanes: Sequence[LaneView]) -> dict[str, int]:
    """Model → since when jobs of it have been waiting."""
    found: dict[str, int] = {}
    for view in lanes:
        found[view.lane.model] = min(view.admitted_ms, found.get(view.lane.model, view.admitted_ms))
    return found


def _serve(lanes: Sequence[LaneView], growing: _Round, *, last: bool = False) -> None:
    """Place jobs of these lanes, one at a time, until all are placed or held, or no more may be placed.

    Those whose worker would have to load their model come ``last``, where it has the models of others that wait: a free worker goes on
    with what is in its memory, or all of them would do nothing but load.
    """
    fleet, accounts, weights = growing.fleet, growing.state.accounts, growing.policy.tenant_weights
    if growing.left <= 0 or not fleet.has_room():
        _leave(lanes, growing)
        return
    ranked: dict[str, list[_Ranked]] = {}
    for view in lanes:
        begun = growing.waiting.get(view.name)
        ranked.setdefault(view.lane.tenant, []).append(_rank(view, view.depth - begun.left if begun else 0, growing))
    growing.oldest_ms = _oldest(lanes) if growing.snapshot.load_ms and not last else {}
    for heap in ranked.values():
        heapq.heapify(heap)
    tenants = [(accounts.given[tenant], tenant) for tenant in ranked]
    heapq.heapify(tenants)
    while tenants and growing.left > 0:
        tenant = tenants[0][1]
        heap = ranked[tenant]
        view = heap[0][-1]
        waiting = growing.waiting.get(view.name) or _begin(view, growing)
        given, done = 0, True
        if waiting is not None:
            alone = len(tenants) == 1 and len(heap) == 1
            given, done = _place(waiting, growing.left if alone else 1, growing)
            if done and not waiting.deferred:
                _note_held(waiting, growing)
        if given:
            accounts.charge(tenant, given * view.cost_ms, weights)
        if waiting is not None and not done:
            heapq.heapreplace(heap, _rank(view, view.depth - waiting.left, growing))
        else:
            heapq.heappop(heap)
        if heap:
            heapq.heapreplace(tenants, (accounts.given[tenant], tenant))
        else:
            heapq.heappop(tenants)
        if done and not given and not fleet.has_room():
            break
    deferred = [view for view in lanes if (waiting := growing.waiting.get(view.name)) is not None and waiting.deferred]
    _leave((one[-1] for _, tenant in tenants for one in ranked[tenant]), growing)
    if deferred:
        for view in deferred:
            growing.waiting[view.name].deferred = False
        _serve(deferred, growing, last=True)


def _leave(lanes: Iterable[LaneView], growing: _Round) -> None:
    """No more can be placed. A lane that none may have even so is a hold; one whose turn did not come is none."""
    fleet, cut_short = growing.fleet, growing.left <= 0
    for view in lanes:
        waiting = growing.waiting.get(view.name)
        if waiting is None:
            if not fleet.has_room(fleet.candidates(view.lane)):
                growing.holds.append(_full(view, growing))
        elif not cut_short:
            _note_held(waiting, growing)


def _full(view: LaneView, growing: _Round) -> Hold:
    """None of the lane's jobs goes anywhere."""
    return Hold(view.name, "full" if growing.fleet.candidates(view.lane).indices else "unroutable", view.depth, {})


def _begin(view: LaneView, growing: _Round) -> _Waiting | None:
    """The lane with its candidates, or a hold."""
    fleet, policy, lane = growing.fleet, growing.policy, view.lane
    candidates = fleet.candidates(lane)
    if not fleet.has_room(candidates):
        growing.holds.append(_full(view, growing))
        return None
    strategy = policy.strategy_of(lane.model)
    age_ms = growing.snapshot.now_ms - view.admitted_ms
    hold, sticky = policy.hold, policy.sticky
    ratio = hold.ratio if hold is not None and strategy.timed and age_ms <= hold.hold_max_ms else 0.0
    ranking = fleet.ranking(candidates, strategy, max(1, view.cost_ms), ratio)
    waiting = _Waiting(view, view.depth, ranking, home=-1, home_wait_ms=0.0, may_leave_home=True)
    if sticky is not None and lane.slot >= 0:
        waiting.home = fleet.home(candidates, lane.slot)
        waiting.may_leave_home = not sticky.required
        if age_ms <= (sticky.hold_max_ms if strategy.timed else sticky.wait_ms):
            waiting.home_wait_ms = sticky.wait_ms
    growing.waiting[view.name] = waiting
    return waiting


def _note_held(waiting: _Waiting, growing: _Round) -> None:
    held = sum(waiting.held.values())
    if waiting.left or held:
        names = {growing.snapshot.workers[index].epoch: count for index, count in waiting.held.items()}
        growing.holds.append(Hold(waiting.view.name, waiting.reason, waiting.left + held, names))


# -- who gets the job


def _place(waiting: _Waiting, most: int, growing: _Round) -> tuple[int, bool]:
    """Place or hold up to ``most`` jobs of one lane. How many were given to workers, and whether there is no more to do for this lane."""
    fleet, state, ranking, placed = growing.fleet, growing.state, waiting.ranking, waiting.placed
    candidates, cost_ms, takes_turns = ranking.candidates, ranking.cost_ms, ranking.strategy.turns != ""
    lane, allowance = waiting.view.lane, growing.allowance
    given = looked = 0
    filled = True
    while looked < most and waiting.left > 0:
        if filled and not fleet.has_room(candidates):
            return given, True
        if allowance is not None and (refusal := allowance.refuses(lane, cost_ms)) is not None:
            waiting.reason = refusal
            return given, True
        place, score = _choose(waiting, growing)
        if place < 0:
            return given, True
        index = candidates.indices[place]
        cold = candidates.cold_ms > 0 and fleet.is_cold(candidates, place)
        if cold and growing.oldest_ms and _warm_jobs_wait(waiting.view, growing, index, candidates.cold_ms):
            waiting.deferred = True
            return given, True
        looked += 1
        waiting.left -= 1
        if fleet.is_full(index):
            # It waits for this one. What comes after it sees the worker as if it had it already.
            waiting.held[index] = waiting.held.get(index, 0) + 1
            waiting.reason = "sticky" if place == waiting.home else "sooner_elsewhere"
            fleet.owe(index, cost_ms)
            continue
        filled = fleet.owe(index, cost_ms)
        if cold:
            fleet.will_load(candidates, place)
        growing.left -= 1
        given += 1
        if allowance is not None:
            allowance.take(lane, cost_ms)
        if takes_turns:
            state.turn += 1
            fleet.took_turn(index, state.turn)
        if index in placed:
            placed[index][0] += 1
        else:
            placed[index] = [1, score]
    return given, waiting.left == 0


def _warm_jobs_wait(view: LaneView, growing: _Round, index: int, cold_ms: int) -> bool:
    """Whether jobs wait whose model the worker has, and this one may be served after them."""
    if view.deadline_ms and is_urgent(view, growing.snapshot.now_ms):
        return False
    oldest_ms, latest_ms = growing.oldest_ms, view.admitted_ms + PATIENCE_LOADS * cold_ms
    resident = growing.snapshot.workers[index].resident or ()
    return any(oldest_ms[model] < latest_ms for model in resident if model in oldest_ms)


def _choose(waiting: _Waiting, growing: _Round) -> tuple[int, float]:
    """(place, score) of the worker that the next job goes to, or waits for if it is full; place -1 where all are full."""
    fleet, ranking, home = growing.fleet, waiting.ranking, waiting.home
    jobs = min(waiting.left, growing.left)
    if home < 0:
        return fleet.best(ranking, jobs)
    timed = ranking.strategy.timed
    full = fleet.is_full(ranking.candidates.indices[home])
    score = fleet.score(ranking.candidates, home, ranking.strategy, ranking.cost_ms)
    if not waiting.may_leave_home or (not timed and (not full or waiting.home_wait_ms)):
        return home, score
    if full and not waiting.home_wait_ms:
        return fleet.best(ranking, jobs)
    place, best = fleet.best(ranking, jobs)
    if place < 0 and full:
        return place, best
    if place < 0 or score - waiting.home_wait_ms <= best:
        return home, score
    return place, best
