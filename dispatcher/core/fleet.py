"""The workers of one snapshot while a plan grows: what each owes by now, who may have what, and what each would make of a job.

Scores are computed for (lane, worker), not for (job, worker), and for a large fleet over arrays: a scan for each job cost 356 µs at
1,000 workers. A small fleet is scored one by one, which is quicker there, with the same formulas and so the same answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

import numpy as np

from dispatcher.core.affinity import Array, Rendezvous
from dispatcher.core.balancing.base import Load, Strategy
from dispatcher.core.labels import Wanted
from dispatcher.core.lane import Lane
from dispatcher.core.policy import Policy
from dispatcher.core.residency import load_penalty_ms
from dispatcher.core.snapshot import WorkerView

SMALL: Final = 48
"""Up to so many candidates are scored one by one."""

BEST_KEPT: Final = 16
"""So many of the best of many are looked at before all are scored again."""

UNTIMED_EXTRA: Final = 1e9
KINDS_KEPT: Final = 10_000
HOMES_KEPT: Final = 100
INFINITE: Final = float("inf")
ANY_LANE: Final = Lane("", "", "", 0, 0)

Kind = tuple[str, str, str, Wanted, Wanted]
"""What decides who may have a lane's jobs, and how soon each would be done: ingress, task, model, requires, prefers."""


@dataclass(slots=True)
class Memory:
    """What stays the same from plan to plan while the same workers are there; to be dropped at any time."""

    epochs: tuple[str, ...] = ()
    fits: dict[Kind, list[int]] = field(default_factory=dict)
    homes: dict[tuple[int, ...], Rendezvous] = field(default_factory=dict)

    def of(self, workers: Sequence[WorkerView]) -> Memory:
        """This, emptied if the workers are not those of last time."""
        epochs = tuple(worker.epoch for worker in workers)
        if epochs != self.epochs:
            self.epochs = epochs
            self.fits.clear()
            self.homes.clear()
        if len(self.fits) > KINDS_KEPT:
            self.fits.clear()
        if len(self.homes) > HOMES_KEPT:
            self.homes.clear()
        return self


@dataclass(slots=True)
class Candidates:
    """The workers that may have jobs of one kind, full ones too. The three lists go together; a *place* is an index into them.

    ``extra_ms`` is what the strategy does not know of: time to load the model, and what is wished and not had; empty where it is 0 for
    all.
    """

    indices: list[int]
    speeds: list[float]
    extra_ms: list[float]
    arrays: tuple[Array, Array, Array | None] | None = None
    places: dict[int, int] | None = None
    rendezvous: Rendezvous | None = None
    full_places: int = 0
    """No place before this one has room."""


class Fleet:
    """Made for one plan. An index is one into ``workers``."""

    def __init__(
        self, workers: Sequence[WorkerView], policy: Policy, memory: Memory, load_ms: Mapping[str, int], rng: Random
    ) -> None:
        self.workers = workers
        self.windows = [worker.window for worker in workers]
        self._policy = policy
        self._memory = memory.of(workers)
        self._load_ms = load_ms
        self._rng = rng
        self._kinds: dict[Kind, Candidates] = {}
        self._by_kind = [one for one in policy.filters if not one.of_worker]
        every = [one for one in policy.filters if one.of_worker]
        self._usable = [i for i, worker in enumerate(workers) if all(one.refuses(ANY_LANE, worker) is None for one in every)]
        self._loads: list[Load | None] = [None] * len(workers)
        self._columns: tuple[Array, ...] | None = None
        self._permutation: np.random.Generator | None = None

    # -- who

    def candidates(self, lane: Lane) -> Candidates:
        """The workers that every filter passes."""
        kind = (lane.ingress, lane.task, lane.model, lane.requires, lane.prefers)
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = self._find(kind, lane)
        return found

    def _find(self, kind: Kind, lane: Lane) -> Candidates:
        workers, memory = self.workers, self._memory
        fits = memory.fits.get(kind)
        if fits is None:
            by_kind = self._by_kind
            fits = [i for i, worker in enumerate(workers) if all(one.refuses(lane, worker) is None for one in by_kind)]
            memory.fits[kind] = fits
        indices = fits
        if len(self._usable) < len(workers):
            usable = set(self._usable)
            indices = [i for i in fits if i in usable]
        if len(indices) > SMALL:
            # Of workers that are alike any may be chosen: in this order the first is one by chance.
            if self._permutation is None:
                self._permutation = np.random.Generator(np.random.PCG64(self._rng.getrandbits(64)))
            indices = self._permutation.permutation(indices).tolist()
        model, penalty = lane.model, self._policy.penalty_ms if lane.prefers else None
        extra: list[float] = []
        if self._load_ms or penalty is not None:
            for i in indices:
                cold_ms = load_penalty_ms(model, workers[i], self._load_ms)
                extra.append(cold_ms + (penalty(lane, workers[i]) if penalty is not None else 0.0))
        return Candidates(indices, [workers[i].speed(model) for i in indices], extra if any(extra) else [])

    def home(self, candidates: Candidates, slot: int) -> int:
        """The place of the worker that the slot belongs to. There must be a candidate."""
        if candidates.rendezvous is None:
            indices = sorted(candidates.indices)
            key = tuple(indices)
            if (found := self._memory.homes.get(key)) is None:
                found = self._memory.homes[key] = Rendezvous(indices, [self.workers[i] for i in indices])
            candidates.rendezvous = found
            candidates.places = {index: place for place, index in enumerate(candidates.indices)}
        assert candidates.places is not None
        return candidates.places[candidates.rendezvous.home(slot)]

    # -- what they owe

    def load(self, index: int) -> Load:
        """What that worker owes by now."""
        found = self._loads[index]
        if found is None:
            worker = self.workers[index]
            found = self._loads[index] = Load(worker.leases, worker.leased_cost_ms, worker.concurrency)
        return found

    def has_room(self, candidates: Candidates) -> bool:
        """Whether any of them may be given a job now. Loads only grow, so that all calls of a plan together look at each place once."""
        indices, windows = candidates.indices, self.windows
        while candidates.full_places < len(indices):
            index = indices[candidates.full_places]
            load = self._loads[index]
            if (self.workers[index].leases if load is None else load.leases) < windows[index]:
                return True
            candidates.full_places += 1
        return False

    def owe(self, index: int, cost_ms: int) -> None:
        """It is given a job more, or one waits for it."""
        load = self._loads[index]
        assert load is not None
        load.leases += 1
        load.cost_ms += cost_ms
        if self._columns is not None:
            self._columns[0][index] = load.leases
            self._columns[1][index] = load.cost_ms

    def took_turn(self, index: int, turn: int) -> None:
        """It was chosen."""
        load = self.load(index)
        load.last_turn = turn
        load.passed += load.stride
        if self._columns is not None:
            self._columns[3][index] = load.last_turn
            self._columns[4][index] = load.passed

    # -- how good

    def score(self, candidates: Candidates, place: int, strategy: Strategy, cost_ms: int) -> float:
        """What the strategy makes of one place, the extra included. Where it knows no times, the extra decides first."""
        value = strategy.score(cost_ms, self.load(candidates.indices[place]), candidates.speeds[place])
        if candidates.extra_ms:
            value += candidates.extra_ms[place] * (1.0 if strategy.timed else UNTIMED_EXTRA)
        return value

    def best(self, candidates: Candidates, strategy: Strategy, cost_ms: int, ratio: float) -> tuple[list[tuple[float, float, int]], float]:
        """A heap of good places, (score, tie, place), and a score that none of those left out is below.

        The score of a full worker is multiplied by ``ratio``; where that is 0, full workers are left out.
        """
        if len(candidates.indices) > SMALL:
            return self._best_of_many(candidates, strategy, cost_ms, ratio)
        found, windows, draw = [], self.windows, self._rng.random
        for place, index in enumerate(candidates.indices):
            if self.load(index).leases < windows[index]:
                found.append((self.score(candidates, place, strategy, cost_ms), draw(), place))
            elif ratio and windows[index] > 0:
                found.append((ratio * self.score(candidates, place, strategy, cost_ms), draw(), place))
        heapq.heapify(found)
        return found, INFINITE

    def _best_of_many(
        self, candidates: Candidates, strategy: Strategy, cost_ms: int, ratio: float
    ) -> tuple[list[tuple[float, float, int]], float]:
        if candidates.arrays is None:
            extra = np.array(candidates.extra_ms) * (1.0 if strategy.timed else UNTIMED_EXTRA) if candidates.extra_ms else None
            candidates.arrays = np.array(candidates.indices, dtype=np.intp), np.array(candidates.speeds), extra
        at, speeds, extra = candidates.arrays
        columns = self._as_columns()
        taken = [column[at] for column in columns]
        scores = np.asarray(strategy.score(cost_ms, Load(*cast("Any", taken[:5])), cast("Any", speeds)), dtype=float)
        if extra is not None:
            scores = scores + extra
        leases, windows = taken[0], taken[5]
        unfit = leases >= windows
        if ratio:
            scores = np.where(unfit, scores * ratio, scores)
            unfit = windows <= 0
        scores = np.where(unfit, INFINITE, scores)
        if len(scores) > BEST_KEPT:
            chosen = np.argpartition(scores, BEST_KEPT)[: BEST_KEPT + 1]
            beyond = float(scores[chosen[BEST_KEPT]])
            chosen = chosen[:BEST_KEPT]
        else:
            chosen, beyond = np.arange(len(scores)), INFINITE
        draw = self._rng.random
        pairs = zip(scores[chosen].tolist(), chosen.tolist(), strict=True)
        found = [(score, draw(), place) for score, place in pairs if score != INFINITE]
        heapq.heapify(found)
        return found, beyond

    def _as_columns(self) -> tuple[Array, ...]:
        """Leases, cost, slots, last turn, passed and window of every worker; :meth:`owe` and :meth:`took_turn` keep them."""
        if self._columns is None:
            workers = self.workers
            columns = [
                np.array([worker.leases for worker in workers], dtype=float),
                np.array([worker.leased_cost_ms for worker in workers], dtype=float),
                np.array([worker.concurrency for worker in workers], dtype=float),
                np.zeros(len(workers)),
                np.zeros(len(workers)),
                np.array(self.windows, dtype=float),
            ]
            for index, load in enumerate(self._loads):
                if load is not None:
                    for column, value in zip(columns, (load.leases, load.cost_ms, load.slots, load.last_turn, load.passed), strict=False):
                        column[index] = value
            self._columns = tuple(columns)
        return self._columns
