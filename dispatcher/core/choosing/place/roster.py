"""The workers of a snapshot as choosing needs them, kept from plan to plan: who may have what, how fast, and their loads as columns.

All of it is made from the snapshot and may be dropped at any time. What did not change since the plan before is not made again: a
scan of 10,000 workers costs more than placing 500 jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import is_not
from typing import Any, Final

import numpy as np

from dispatcher.core.choosing.place.affinity import Array, Rendezvous
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.facts.labels import Wanted
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import load_penalty_ms, time_to_load_ms

FEW: Final = 8
"""What changed of so many is taken over one by one: to find out anew who may have what takes longer than all else in a plan for one job."""
KINDS_KEPT: Final = 10_000
HOMES_KEPT: Final = 100
ANY_LANE: Final = Lane("", "", "", 0, 0)

Kind = tuple[str, str, str, Wanted, Wanted]
"""What decides who may have a lane's jobs, and how soon each would be done: ingress, task, model, requires, prefers."""


@dataclass(slots=True)
class Candidates:
    """The workers that may have jobs of one kind, full ones too. The three lists go together; a *place* is an index into them.

    ``extra_ms`` is what the strategy does not know of: time to load the model, and what is wished and not had; empty where it is 0 for
    all. ``are_all``: they are all the workers there are. ``cold_ms``: what ``model`` takes
    to load where it is not in memory; ``on_its_way``: one of them is loading it.
    """

    indices: list[int]
    speeds: list[float]
    extra_ms: list[float]
    are_all: bool
    model: str = ""
    cold_ms: int = 0
    on_its_way: bool = False
    arrays: tuple[Array | None, Array, Array] | None = None
    rendezvous: Rendezvous | None = None

    def as_arrays(self) -> tuple[Array | None, Array, Array]:
        """All three lists; ``None`` for indices that are all there are."""
        if self.arrays is None:
            at = None if self.are_all else np.array(self.indices, dtype=np.intp)
            self.arrays = at, np.array(self.speeds), np.array(self.extra_ms)
        return self.arrays


@dataclass(slots=True)
class Roster:
    """``windows`` are those of ``workers``, ``usable`` the indices that no filter refuses whatever the job."""

    workers: Sequence[WorkerView] = ()
    epochs: list[str] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    usable: list[int] = field(default_factory=list)
    _unusable: frozenset[int] = frozenset()
    _load_ms: dict[str, int] = field(default_factory=dict)
    _columns: tuple[Array, Array, Array, Array] | None = None
    _slots: Array | None = None
    _kinds: dict[Kind, Candidates] = field(default_factory=dict)
    _fits: dict[Kind, list[int]] = field(default_factory=dict)
    _penalties: dict[Kind, list[float]] = field(default_factory=dict)
    _homes: dict[tuple[int, ...], Rendezvous] = field(default_factory=dict)

    def update(self, workers: Sequence[WorkerView], policy: Policy, load_ms: Mapping[str, int]) -> None:
        """A plan over these workers begins. A worker whose view is the same object as last time has not changed."""
        before, self.workers = self.workers, workers
        if load_ms != self._load_ms:
            self._load_ms = dict(load_ms)
            self._kinds.clear()
        filters = [one for one in policy.filters if one.of_worker]
        if len(workers) != len(before) or (workers is not before and not self._follow(before, filters)):
            self._renew(filters)
        for kept in (self._kinds, self._fits, self._penalties):
            if len(kept) > KINDS_KEPT:
                kept.clear()
        if len(self._homes) > HOMES_KEPT:
            self._homes.clear()

    def _follow(self, before: Sequence[WorkerView], filters: Sequence[Filter]) -> bool:
        """Take over what changed of as many workers; False where to make all anew is quicker, or must be."""
        workers = self.workers
        changed: Sequence[int] = range(len(workers))
        if len(workers) > FEW:
            some = slice(None, None, len(workers) // 8 + 1)
            if all(map(is_not, workers[some], before[some])):
                return False
            changed = list(compress(range(len(workers)), map(is_not, workers, before)))
            if 8 * len(changed) > len(workers):
                return False
        return all(self._change(i, before[i], filters) for i in changed)

    def _renew(self, filters: Sequence[Filter]) -> None:
        workers = self.workers
        epochs = [worker.epoch for worker in workers]
        if epochs != self.epochs:
            self.epochs = epochs
            for kept in (self._fits, self._penalties, self._homes):
                kept.clear()
            self._slots = None
        self.windows = [worker.window for worker in workers]
        self._columns = None
        self.usable = usable(workers, filters)
        all_usable = len(self.usable) == len(workers)
        self._unusable = frozenset() if all_usable else frozenset(range(len(workers))).difference(self.usable)
        self._kinds.clear()

    def _change(self, index: int, before: WorkerView, filters: Sequence[Filter]) -> bool:
        """One worker is not as it was; False if more has changed than what it owes."""
        now = self.workers[index]
        refused = any(one.refuses(ANY_LANE, now) is not None for one in filters)
        if now.epoch != before.epoch or refused != (index in self._unusable):
            return False
        if now.warmth != before.warmth or now.speeds != before.speeds or now.resident != before.resident or now.loading != before.loading:
            return False
        self.windows[index] = now.window
        if self._columns is not None:
            leases, costs, _, windows = self._columns
            leases[index], costs[index], windows[index] = now.leases, now.leased_cost_ms, now.window
        return True

    def columns(self) -> tuple[Array, Array, Array, Array]:
        """Leases, leased cost, slots and window of every worker, as the snapshot has them. Not to be written to."""
        if self._columns is None:
            workers = self.workers
            if self._slots is None:
                self._slots = np.array([worker.concurrency for worker in workers], dtype=float)
            self._columns = (
                np.array([worker.leases for worker in workers], dtype=float),
                np.array([worker.leased_cost_ms for worker in workers], dtype=float),
                self._slots,
                np.array(self.windows, dtype=float),
            )
        return self._columns

    def candidates(self, lane: Lane, policy: Policy) -> Candidates:
        """The workers that every filter passes."""
        kind = (lane.ingress, lane.task, lane.model, lane.requires, lane.prefers)
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = self._find(kind, lane, policy)
        return found

    def _find(self, kind: Kind, lane: Lane, policy: Policy) -> Candidates:
        workers, unusable = self.workers, self._unusable
        fits = self._fits.get(kind)
        if fits is None:
            filters = [one for one in policy.filters if not one.of_worker]
            fits = [i for i, worker in enumerate(workers) if all(one.refuses(lane, worker) is None for one in filters)]
            self._fits[kind] = fits
        indices = [i for i in fits if i not in unusable] if unusable else fits
        chosen = workers if len(indices) == len(workers) else [workers[i] for i in indices]
        model = lane.model
        speeds = [(one.speeds.get(model, one.weight) if one.speeds else one.weight) * one.warmth for one in chosen]
        extra: list[float] = []
        on_its_way = False
        if cold_ms := time_to_load_ms(model, self._load_ms):
            extra = [load_penalty_ms(model, one, cold_ms) for one in chosen]
            on_its_way = any(model in one.loading for one in chosen)
            if on_its_way:
                extra = [one and one + cold_ms for one in extra]
        if lane.prefers and policy.penalty_ms is not None:
            penalties = self._penalties.get(kind)
            if penalties is None:
                penalties = self._penalties[kind] = [policy.penalty_ms(lane, worker) for worker in workers]
            extra = [one + penalties[i] for one, i in zip(extra or repeat(0.0), indices, strict=False)]
        return Candidates(indices, speeds, extra if any(extra) else [], len(indices) == len(workers), model, cold_ms, on_its_way)

    def home(self, candidates: Candidates, slot: int) -> int:
        """Index of the worker that the slot belongs to. There must be a candidate."""
        if candidates.rendezvous is None:
            key = tuple(candidates.indices)
            if (found := self._homes.get(key)) is None:
                found = self._homes[key] = Rendezvous(key, [self.workers[i] for i in key])
            candidates.rendezvous = found
        return candidates.rendezvous.home(slot)


def usable(workers: Sequence[WorkerView], filters: Sequence[Filter]) -> list[int]:
    """Indices of the workers that none of these filters refuses, whatever the lane."""
    found: Sequence[int] = range(len(workers))
    for one in filters:
        keeps: Any = getattr(one, "keeps", None)
        found = keeps(workers, found) if keeps else [i for i in found if one.refuses(ANY_LANE, workers[i]) is None]
    return list(found)
