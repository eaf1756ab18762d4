"""The workers of one snapshot while a plan grows: what each owes by now, and what each would make of a job.

Scores are computed for (lane, worker), not for (job, worker), and for a large fleet over arrays: a scan for each job
cost 356 µs at 1,000 workers. A small fleet is scored one by one, which is quicker there, with the same formulas and so
the same answers.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final, cast

import msgspec
import numpy as np

from dispatcher.core.choosing.place.affinity import Array
from dispatcher.core.choosing.place.roster import Candidates, Roster
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.protocols import Load, Strategy
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import load_penalty_ms

SMALL: Final = 48
"""Up to so many candidates are scored one by one, not over arrays."""

KEPT_MIN: Final = 16
KEPT_MAX: Final = 512
"""Of many candidates, at least and at most so many of the best are kept until all are scored again."""

UNTIMED_EXTRA: Final = 1e9
"""Weight of extra time beside a score that is no time: the extra decides first."""

INFINITE: Final = float("inf")

SAME: Final = 1 + 1e-12
"""Scores that differ by less are the same: over arrays a power may end in another bit."""


class Ranking(msgspec.Struct):
    """The best places for jobs of one demand and cost."""

    candidates: Candidates
    strategy: Strategy
    cost_ms: int
    ratio: float
    """The score of a full worker is multiplied by this; 0: full workers are left out."""
    heap: list[tuple[float, float, int]] = msgspec.field(default_factory=list)
    """(score, tie, place), as fresh as when it was made: a score may be too good by now."""
    beyond: float = -INFINITE
    """No place outside the heap is better than this."""
    kept: int = 0
    """How many of the best the heap was made with."""


class Loads:
    """What the workers owe, during one plan. An *index* points into ``workers``, a *place* into the lists of a
    :class:`Candidates`.
    """

    def __init__(
        self, workers: Sequence[WorkerView], policy: Policy, roster: Roster, load_ms: Mapping[str, int], rng: Random
    ) -> None:
        roster.update(workers, policy, load_ms)
        self.workers = workers
        self.windows = roster.windows
        self._policy = policy
        self._roster = roster
        self._rng = rng
        self._loads: list[Load | None] = [None] * len(workers)
        self._columns: tuple[Array, ...] | None = None
        self._grown: list[int] = []  # since the columns were made or brought up to date
        self._ties: Array | None = None
        self._rankings: dict[tuple[int, int, float], Ranking] = {}
        self._coming: dict[str, set[int]] = {}  # model → indices of workers that were sent for it in this plan
        self._extras: dict[int, list[float]] = {}  # identity of candidates → their extra, where that is another by now
        self._open: dict[int, list[int]] = {}  # identity of indices → those with room, and some that are full by now

    # -- which workers

    def candidates(self, lane: Lane) -> Candidates:
        """The workers that every filter passes."""
        return self._roster.candidates(lane, self._policy)

    def home(self, candidates: Candidates, slot: int) -> int:
        """The place of the worker that the slot belongs to. There must be a candidate."""
        return bisect_left(candidates.indices, self._roster.home(candidates, slot))

    # -- what they owe

    def load(self, index: int) -> Load:
        """What the worker owes by now."""
        load = self._loads[index]
        if load is None:
            worker = self.workers[index]
            load = self._loads[index] = Load(worker.leases, worker.leased_cost_ms, worker.concurrency)
        return load

    def is_full(self, index: int) -> bool:
        """True if the worker may be given no more."""
        load = self._loads[index]
        return (self.workers[index].leases if load is None else load.leases) >= self.windows[index]

    def has_room(self, candidates: Candidates | None = None) -> bool:
        """True if any of the candidates, or any worker at all, may be given a job now."""
        indices = self._roster.usable
        if candidates is not None and len(candidates.indices) < len(indices):
            indices = candidates.indices
        key = id(indices)
        roomy = self._open.get(key)
        if roomy is None:
            roomy = self._open[key] = self._with_room(indices)
        while roomy:  # loads only grow, so that all calls of a plan together look at each worker once
            if not self.is_full(roomy[-1]):
                return True
            roomy.pop()
        return False

    def _with_room(self, indices: list[int]) -> list[int]:
        if len(indices) <= SMALL:
            return [index for index in indices if not self.is_full(index)]
        columns = self._as_columns()
        free = columns[0] < columns[3]
        if len(indices) == len(self.workers):
            return np.flatnonzero(free).tolist()
        at = np.array(indices, dtype=np.intp)
        return cast("list[int]", at[free[at]].tolist())

    def owe(self, index: int, cost_ms: int) -> bool:
        """The worker is given one job more, or one waits for it. True if it may be given no more."""
        load = self._loads[index] or self.load(index)
        load.leases += 1
        load.cost_ms += cost_ms
        self._grown.append(index)
        return load.leases >= self.windows[index]

    def is_cold(self, candidates: Candidates, place: int) -> bool:
        """True if the worker would have to load the model, which takes time."""
        index = candidates.indices[place]
        resident = self.workers[index].resident
        return resident is not None and candidates.model not in resident and index not in self._coming.get(candidates.model, ())

    def will_load(self, candidates: Candidates, place: int) -> None:
        """The worker was given a job whose model it must load: later jobs find the model there, and wait for as long as
        the load takes.

        From then on they have it loaded elsewhere only if that is worth two loads, for they could share this one.
        """
        index = candidates.indices[place]
        self._coming.setdefault(candidates.model, set()).add(index)
        self._extras.clear()
        for ranking in self._rankings.values():
            if ranking.candidates.model == candidates.model:
                ranking.heap, ranking.beyond = [], -INFINITE
        load = self.load(index)
        load.cost_ms += round(candidates.cold_ms * candidates.speeds[place])
        self._grown.append(index)

    def took_turn(self, index: int, turn: int) -> None:
        """The worker was chosen at this turn."""
        load = self.load(index)
        load.last_turn = turn
        load.passed += load.stride

    # -- how good they are

    def score(self, candidates: Candidates, place: int, strategy: Strategy, cost_ms: int) -> float:
        """The strategy's score of a place, with the extra time. If the strategy knows no times, the extra decides
        first.
        """
        value = strategy.score(cost_ms, self.load(candidates.indices[place]), candidates.speeds[place])
        if candidates.extra_ms:
            extra_ms = candidates.extra_ms[place]
            if self._coming and candidates.model in self._coming:
                extra_ms = self._extra_ms(candidates)[place]
            value += extra_ms * (1.0 if strategy.timed else UNTIMED_EXTRA)
        return value

    def _extra_ms(self, candidates: Candidates) -> list[float]:
        """The extra time of each place, once workers were sent for the model in this plan."""
        extras_ms = self._extras.get(id(candidates))
        if extras_ms is None:
            model, cold_ms, coming = candidates.model, candidates.cold_ms, self._coming[candidates.model]
            second_ms, extras_ms = 0 if candidates.on_its_way else cold_ms, []
            for index, extra_ms in zip(candidates.indices, candidates.extra_ms, strict=True):
                load_ms = load_penalty_ms(model, self.workers[index], cold_ms)
                if index in coming:
                    extra_ms += second_ms - cold_ms - load_ms
                elif load_ms:
                    extra_ms += second_ms
                extras_ms.append(extra_ms)
            self._extras[id(candidates)] = extras_ms
        return extras_ms

    def ranking(self, candidates: Candidates, strategy: Strategy, cost_ms: int, ratio: float) -> Ranking:
        """The ranking that all lanes of this demand and cost share. ``strategy`` is the strategy of the demand's model."""
        key = id(candidates), cost_ms, ratio
        ranking = self._rankings.get(key)
        if ranking is None:
            ranking = self._rankings[key] = Ranking(candidates, strategy, cost_ms, ratio)
        return ranking

    def best(self, ranking: Ranking, jobs: int) -> tuple[int, float]:
        """(place, score) of the best, which may be full if the ranking has a ratio; place -1 if there is none.
        ``jobs``: about how many may be asked for.

        Loads only grow while a plan does, so a stale score is one that is too good: it is computed again when it comes
        up.
        """
        candidates, strategy, ratio = ranking.candidates, ranking.strategy, ranking.ratio
        if strategy.draws:
            return self._drawn(ranking)
        cost_ms, windows, indices, loads = ranking.cost_ms, self.windows, candidates.indices, self._loads
        heap = ranking.heap
        while True:
            if not heap or heap[0][0] > ranking.beyond:
                if not heap and ranking.beyond == INFINITE:
                    return -1, 0.0
                if len(indices) > SMALL:
                    self._rank_many(ranking, jobs)
                else:
                    self._rank_few(ranking)
                heap = ranking.heap
                if not heap:
                    return -1, 0.0
            score, _, place = heap[0]
            index = indices[place]
            load = loads[index]
            if load is None:  # nothing was given to it since the snapshot
                return place, score
            now = self.score(candidates, place, strategy, cost_ms)
            if load.leases >= windows[index]:
                if not ratio:
                    heapq.heappop(heap)
                    continue
                now *= ratio
            if now > score and now > score * SAME:
                heapq.heapreplace(heap, (now, self._rng.random(), place))
                continue
            return place, now

    def _rank_few(self, ranking: Ranking) -> None:
        candidates, strategy, cost_ms, ratio = ranking.candidates, ranking.strategy, ranking.cost_ms, ranking.ratio
        scored, windows, draw = [], self.windows, self._rng.random
        for place, index in enumerate(candidates.indices):
            if self.load(index).leases < windows[index]:
                scored.append((self.score(candidates, place, strategy, cost_ms), draw(), place))
            elif ratio and windows[index] > 0:
                scored.append((ratio * self.score(candidates, place, strategy, cost_ms), draw(), place))
        heapq.heapify(scored)
        ranking.heap, ranking.beyond = scored, INFINITE

    def _rank_many(self, ranking: Ranking, jobs: int) -> None:
        candidates, strategy, ratio = ranking.candidates, ranking.strategy, ranking.ratio
        at, speeds, extra = candidates.as_arrays()
        columns, ties = self._as_columns(), self._as_ties()
        if at is not None:
            columns, ties = tuple(column[at] for column in columns[: 6 if strategy.turns else 4]), ties[at]
        leases, costs, slots, windows = columns[:4]
        turns = columns[4:6] if strategy.turns else (0, 0.0)
        load = Load(*cast("Any", (leases, costs, slots, *turns)))
        scores = np.asarray(strategy.score(ranking.cost_ms, load, cast("Any", speeds)), dtype=float)
        if candidates.extra_ms:
            if candidates.model in self._coming:
                extra = np.array(self._extra_ms(candidates))
            scores = scores + extra * (1.0 if strategy.timed else UNTIMED_EXTRA)
        unfit = leases >= windows
        if ratio:
            scores = np.where(unfit, scores * ratio, scores)
            unfit = windows <= 0
        scores = np.where(unfit, INFINITE, scores)
        kept = ranking.kept = max(KEPT_MIN, min(KEPT_MAX, max(jobs, 4 * ranking.kept)))
        if len(scores) > kept:
            # Of places with the same score any may be kept.
            chosen = np.argpartition(scores + (scores + 1e-9) * ties, kept)[: kept + 1]
            values = scores[chosen].tolist()
            beyond = max(values.pop(), min(values))
            chosen = chosen[:kept]
        else:
            chosen, values, beyond = np.arange(len(scores)), scores.tolist(), INFINITE
        drawn = ties[chosen].tolist()
        scored = [entry for entry in zip(values, drawn, chosen.tolist(), strict=True) if entry[0] != INFINITE]
        heapq.heapify(scored)
        ranking.heap, ranking.beyond = scored, beyond

    def _drawn(self, ranking: Ranking) -> tuple[int, float]:
        """The best of a few places with room, drawn by chance. The heap serves as a plain list: drawn places go to its
        end, and a full place is dropped when it is met.
        """
        strategy, candidates, random = ranking.strategy, ranking.candidates, self._rng.random
        if ranking.beyond != INFINITE:
            ranking.heap, ranking.beyond = [(0.0, 0.0, place) for place in range(len(candidates.indices))], INFINITE
        pool, kept = ranking.heap, 0
        best, chosen = 0.0, -1
        while kept < strategy.draws and (among := len(pool) - kept) > 0:
            at = int(random() * among)
            place = pool[at][2]
            if self.is_full(candidates.indices[place]):
                pool[at] = pool[among - 1]
                pool[among - 1] = pool[-1]
                pool.pop()
                continue
            score = self.score(candidates, place, strategy, ranking.cost_ms)
            if chosen < 0 or score < best:
                best, chosen = score, place
            kept += 1
            pool[at], pool[among - 1] = pool[among - 1], pool[at]
        return chosen, best

    # -- over arrays

    def _as_columns(self) -> tuple[Array, ...]:
        """Leases, cost, slots, window, last turn and passed of every worker, as they are now."""
        grown: Iterable[int] = set(self._grown)
        if self._columns is None:
            leases, costs, slots, windows = self._roster.columns()
            self._columns = leases.copy(), costs.copy(), slots, windows, np.zeros(len(leases)), np.zeros(len(leases))
            grown = range(len(leases)) if any(self._loads) else ()
        columns, loads = self._columns, self._loads
        for index in grown:
            if (load := loads[index]) is not None:
                columns[0][index], columns[1][index] = load.leases, load.cost_ms
                columns[4][index], columns[5][index] = load.last_turn, load.passed
        self._grown.clear()
        return columns

    def _as_ties(self) -> Array:
        """For each worker a random number above 0, too small to change an order."""
        if self._ties is None:
            drawn = np.random.Generator(np.random.PCG64(self._rng.getrandbits(64)))
            self._ties = (1 - drawn.random(len(self.workers))) * 1e-13
        return self._ties
