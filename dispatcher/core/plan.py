"""``plan``: which jobs go to which workers now. Pure: a snapshot in, decisions with their reasons out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from dispatcher.core.balancing.base import Filter, Load, Strategy
from dispatcher.core.ordering import OLDEST, Order
from dispatcher.core.snapshot import LaneView, Snapshot, WorkerView

TURN_JOBS = 8
"""Jobs that a lane places before the next lane of the same priority has its turn."""


@dataclass(frozen=True, slots=True)
class Assign:
    """``count`` jobs from the head of ``lane`` go to ``epoch``; ``score`` is the strategy's for the first of them."""

    lane: str
    epoch: str
    count: int
    window: int
    score: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Jobs of ``lane`` wait. ``refusals``: worker name → why it gets none of them."""

    lane: str
    reason: str
    refusals: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at one instant."""

    assignments: tuple[Assign, ...]
    holds: tuple[Hold, ...]


@dataclass(slots=True)
class PolicyState:
    """What choosing remembers from plan to plan: whose turn it was, as a count of choices, and in turns weighted by capacity.

    ``passed`` (epoch → how far on) and ``passing`` (how far on the last one chosen was) are kept only for a strategy that weighs turns.
    """

    turn: int = 0
    last_turn: dict[str, int] = field(default_factory=dict)
    passing: float = 0.0
    passed: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HoldRule:
    """A job waits for a full worker where it would be done more than ``ratio`` times sooner than on any that has room.

    Needs a strategy whose score is a time. Not when the next job of its lane was admitted over ``hold_max_ms`` ago: a hold ends.
    The ratio makes up for what a score cannot see: a slot left idle now delays the jobs to come.
    """

    ratio: float
    hold_max_ms: int


@dataclass(slots=True)
class _Waiting:
    """A lane while its jobs are placed: a heap of (score, tie, index of worker), refilled lazily.

    ``held``: index of a full worker → jobs that wait for it. ``ratio``: 0 where none may.
    """

    view: LaneView
    left: int
    heap: list[tuple[float, float, int]]
    ratio: float = 0.0
    held: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Round:
    """One plan while it grows. ``room`` is kept only where jobs may be held: without any left there is no use in looking further."""

    snapshot: Snapshot
    loads: list[Load]
    state: PolicyState
    strategy: Strategy
    filters: Sequence[Filter]
    rng: Random
    hold: HoldRule | None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # lane → epoch → jobs
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    room: set[int] = field(default_factory=set)


def plan(
    snapshot: Snapshot,
    state: PolicyState,
    *,
    strategy: Strategy,
    filters: Sequence[Filter],
    rng: Random,
    jobs_max: int = 500,
    order: Order = OLDEST,
    hold: HoldRule | None = None,
) -> Plan:
    """Place up to ``jobs_max`` waiting jobs.

    Lanes of a higher priority (lower step) are served first; inside a priority as ``order`` says: by default the lane whose next job
    is oldest begins and lanes take turns. Among the workers that every filter passes and that have room, the lowest score wins; ties
    fall to ``rng``, never to the order of a dict. Work-conserving unless ``hold`` is given: a lane is held only when every worker
    refuses it or is full. ``state`` is updated.
    """
    loads = [Load(w.leases, w.leased_cost_ms, state.last_turn.get(w.epoch, 0)) for w in snapshot.workers]
    began = _begin_turns(snapshot.workers, loads, state) if strategy.weighs_turns else []
    growing = _Round(snapshot, loads, state, strategy, filters, rng, hold)
    left = jobs_max
    now_ms = snapshot.now_ms
    lanes = sorted(snapshot.lanes, key=lambda lane: (lane.lane.step, order.rank(lane, now_ms, 0), lane.job, lane.name))
    for step in sorted({lane.lane.step for lane in lanes}):
        found = (_waiting(view, growing) for view in lanes if view.lane.step == step)
        turn = [waiting for waiting in found if waiting is not None]
        left = _place_by_rank(turn, left, order, growing) if order.by_job else _place_in_turns(turn, left, growing)
        if hold is not None:
            _note_held(turn, growing)
    windows = {worker.epoch: worker.window for worker in snapshot.workers}
    assignments = tuple(
        Assign(lane, epoch, count, windows[epoch], growing.scores[lane, epoch])
        for lane, placed in growing.counts.items()
        for epoch, count in placed.items()
    )
    state.last_turn = {w.epoch: load.last_turn for w, load in zip(snapshot.workers, loads, strict=True)}
    if strategy.weighs_turns:
        _end_turns(snapshot.workers, loads, state, began)
    return Plan(assignments, tuple(growing.holds))


def _begin_turns(workers: Sequence[WorkerView], loads: list[Load], state: PolicyState) -> list[float]:
    """How far on each is. Who was away or full does not make up for it; who is new begins in the middle of a turn: not all together."""
    for worker, load in zip(workers, loads, strict=True):
        if worker.concurrency:
            load.stride = 1 / worker.capacity
        before = state.passed.get(worker.epoch)
        load.passed = state.passing + load.stride / 2 if before is None else max(before, state.passing)
    return [load.passed for load in loads]


def _end_turns(workers: Sequence[WorkerView], loads: list[Load], state: PolicyState, began: list[float]) -> None:
    state.passed = {worker.epoch: load.passed for worker, load in zip(workers, loads, strict=True)}
    reached = [load.passed - load.stride for load, before in zip(loads, began, strict=True) if load.passed > before]
    state.passing = max(reached, default=state.passing)


def _waiting(view: LaneView, growing: _Round) -> _Waiting | None:
    """The lane with its candidates, or a hold."""
    snapshot, loads, strategy, filters, rng = growing.snapshot, growing.loads, growing.strategy, growing.filters, growing.rng
    if "*" in snapshot.paused or view.lane.ingress in snapshot.paused:
        growing.holds.append(Hold(view.name, "paused", {}))
        return None
    refusals: dict[str, str] = {}
    heap: list[tuple[float, float, int]] = []
    full: list[int] = []
    for index, worker in enumerate(snapshot.workers):
        for one in filters:
            if (refusal := one.refuses(view, worker)) is not None:
                refusals[worker.name] = f"{one.name}: {refusal}"
                break
        else:
            load = loads[index]
            if load.leases >= worker.window:
                refusals[worker.name] = f"full: {load.leases} of {worker.window} leases"
                full.append(index)
            else:
                heap.append((strategy.score(view, worker, load), rng.random(), index))
    if not heap:
        growing.holds.append(Hold(view.name, "full" if full else "unroutable", refusals))
        return None
    waiting = _Waiting(view, view.depth, heap)
    hold = growing.hold
    if hold is not None:
        growing.room.update(index for _, _, index in heap)
        if snapshot.now_ms - view.admitted_ms <= hold.hold_max_ms:
            waiting.ratio = hold.ratio
            for index in full:
                if snapshot.workers[index].window > 0:
                    score = strategy.score(view, snapshot.workers[index], loads[index])
                    heap.append((score * hold.ratio, rng.random(), index))
    heapq.heapify(heap)
    return waiting


def _place_in_turns(lanes: Sequence[_Waiting], left: int, growing: _Round) -> int:
    """Each lane a few jobs at a time, in the order given; how many may still be placed."""
    turn = list(lanes)
    while turn and left > 0:
        share = TURN_JOBS if len(turn) > 1 else left
        for waiting in list(turn):
            placed = _place(waiting, min(left, share), growing)
            left -= placed
            if placed < share or waiting.left == 0:
                turn.remove(waiting)
            if left <= 0:
                break
    return left


def _place_by_rank(turn: Sequence[_Waiting], left: int, order: Order, growing: _Round) -> int:
    """One job at a time, of the lane that ranks first now; how many may still be placed."""
    now_ms = growing.snapshot.now_ms
    heap = [(order.rank(waiting.view, now_ms, 0), waiting.view.job, waiting.view.name, waiting) for waiting in turn]
    heapq.heapify(heap)
    while heap and left > 0:
        _, job, name, waiting = heap[0]
        placed = _place(waiting, 1, growing)
        left -= placed
        if placed and waiting.left:
            rank = order.rank(waiting.view, now_ms, waiting.view.depth - waiting.left)
            heapq.heapreplace(heap, (rank, job, name, waiting))
        else:
            heapq.heappop(heap)
    return left


def _place(waiting: _Waiting, most: int, growing: _Round) -> int:
    """Place or hold up to ``most`` jobs of one lane; how many. Loads only grow here, so a stale heap entry is one that is too good:
    it is scored again when it comes up.
    """
    workers, loads, state, strategy, rng = (
        growing.snapshot.workers, growing.loads, growing.state, growing.strategy, growing.rng,
    )  # fmt: skip
    placed = 0
    heap, view, draws, ratio = waiting.heap, waiting.view, strategy.draws, waiting.ratio
    may_hold = growing.hold is not None
    if may_hold and not growing.room:
        return 0
    given = growing.counts.setdefault(view.name, {})
    while heap and placed < most and waiting.left > 0:
        if draws:
            now, index = _drawn(waiting, draws, workers, loads, strategy, rng)
            if index < 0:
                break
            worker, load = workers[index], loads[index]
        else:
            score, tie, index = heap[0]
            worker, load = workers[index], loads[index]
            full = load.leases >= worker.window
            if full and not ratio:
                heapq.heappop(heap)
                continue
            now = strategy.score(view, worker, load)
            if full:
                now *= ratio
            if now > score:
                heapq.heapreplace(heap, (now, rng.random(), index))
                continue
            if full:
                # It waits for this one. What comes after it sees the worker as if it had it already.
                waiting.held[index] = waiting.held.get(index, 0) + 1
                load.leases += 1
                load.cost_ms += view.cost_ms
                waiting.left -= 1
                placed += 1
                continue
        epoch = worker.epoch
        if epoch in given:
            given[epoch] += 1
        else:
            given[epoch] = 1
            growing.scores[view.name, epoch] = now
        load.leases += 1
        load.cost_ms += view.cost_ms
        state.turn += 1
        load.last_turn = state.turn
        load.passed += load.stride
        waiting.left -= 1
        placed += 1
        if may_hold and load.leases >= worker.window:
            growing.room.discard(index)
            if not growing.room:
                break
    return placed


def _note_held(turn: Sequence[_Waiting], growing: _Round) -> None:
    for waiting in turn:
        if waiting.held:
            names = {growing.snapshot.workers[index].name: count for index, count in waiting.held.items()}
            refusals = {name: f"full, and sooner than any other for {count} of the jobs" for name, count in names.items()}
            growing.holds.append(Hold(waiting.view.name, "sooner_elsewhere", refusals))


def _drawn(
    waiting: _Waiting, draws: int, workers: Sequence[WorkerView], loads: list[Load], strategy: Strategy, rng: Random
) -> tuple[float, int]:
    """(score, index) of the best of ``draws`` different candidates drawn by chance; index -1 where all are full.

    The heap serves as a plain list: the drawn go to its end, and a full one is dropped from it when it is met.
    """
    pool, kept = waiting.heap, 0
    best, chosen = 0.0, -1
    while kept < draws and (among := len(pool) - kept) > 0:
        at = int(rng.random() * among)
        index = pool[at][2]
        if loads[index].leases >= workers[index].window:
            pool[at] = pool[among - 1]
            pool[among - 1] = pool[-1]
            pool.pop()
            continue
        score = strategy.score(waiting.view, workers[index], loads[index])
        if chosen < 0 or score < best:
            best, chosen = score, index
        kept += 1
        pool[at], pool[among - 1] = pool[among - 1], pool[at]
    return best, chosen
