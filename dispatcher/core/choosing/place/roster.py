"""The workers of a snapshot as choosing needs them, kept from plan to plan: which may have which jobs, how fast, their
loads as columns.

All of it is made from the snapshot and may be dropped at any time. What did not change since the plan before is not
made again: a scan of 10,000 workers costs more than placing 500 jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import is_not
from typing import Any, Final

import numpy as np

from dispatcher.core.choosing.filters import CanRead
from dispatcher.core.choosing.place.affinity import Array, Rendezvous
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts import labels
from dispatcher.core.facts.labels import Wanted
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.learning.residency import load_penalty_ms, time_to_load_ms

FEW: Final = 8
"""Changes of up to so many workers are taken over one by one: to find out anew which workers may have which jobs takes
longer than all else in a plan for one job.
"""
DEMANDS_KEPT: Final = 10_000
HOMES_KEPT: Final = 100
ANY_LANE: Final = Lane("", "", "", 0, 0)

Demand = tuple[str, str, str, Wanted, Wanted]
"""What decides who may have a lane's jobs, and how soon each would be done: ingress, task, model, requires, prefers."""


@dataclass(slots=True)
class Candidates:
    """The workers that may have jobs of one demand, full ones too. The three lists go together; a *place* is an index
    into them.
    """

    indices: list[int]
    """Which workers."""
    speeds: list[float]
    """Their speeds for the model."""
    extra_ms: list[float]
    """Time that the strategy does not know of: to load the model, and for what is preferred and not there. Empty if it
    is 0 for all.
    """
    are_all: bool
    """True if these are all the workers there are."""
    model: str = ""
    cold_ms: int = 0
    """How long ``model`` takes to load where it is not in memory."""
    on_its_way: bool = False
    """True if one of the workers is loading it."""
    arrays: tuple[Array | None, Array, Array] | None = None
    rendezvous: Rendezvous | None = None

    def as_arrays(self) -> tuple[Array | None, Array, Array]:
        """The three lists as arrays; ``None`` for the indices if they are all the workers."""
        if self.arrays is None:
            at = None if self.are_all else np.array(self.indices, dtype=np.intp)
            self.arrays = at, np.array(self.speeds), np.array(self.extra_ms)
        return self.arrays


@dataclass(slots=True)
class Roster:
    """What was derived from the last snapshot's workers."""

    workers: Sequence[WorkerView] = ()
    epochs: list[str] = field(default_factory=list)
    tasks: list[frozenset[str]] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    usable: list[int] = field(default_factory=list)
    """Indices of the workers that no filter refuses whatever the job."""
    _unusable: frozenset[int] = frozenset()
    _load_ms: dict[str, int] = field(default_factory=dict)
    _columns: tuple[Array, Array, Array, Array] | None = None
    _slots: Array | None = None
    _candidates: dict[Demand, Candidates] = field(default_factory=dict)
    _fits: dict[Demand, list[int]] = field(default_factory=dict)
    _penalties: dict[Demand, list[float]] = field(default_factory=dict)
    _homes: dict[tuple[int, ...], Rendezvous] = field(default_factory=dict)

    def update(self, workers: Sequence[WorkerView], policy: Policy, load_ms: Mapping[str, int]) -> None:
        """A plan over these workers begins. A worker whose view is the same object as last time has not changed."""
        before, self.workers = self.workers, workers
        if load_ms != self._load_ms:
            self._load_ms = dict(load_ms)
            self._candidates.clear()
        filters = [rule for rule in policy.filters if rule.of_worker]
        if len(workers) != len(before) or (workers is not before and not self._follow(before, filters)):
            self._renew(filters)
        for kept in (self._candidates, self._fits, self._penalties):
            if len(kept) > DEMANDS_KEPT:
                kept.clear()
        if len(self._homes) > HOMES_KEPT:
            self._homes.clear()

    def _follow(self, before: Sequence[WorkerView], filters: Sequence[Filter]) -> bool:
        """Take over what changed of as many workers; False if it is quicker, or necessary, to make everything anew."""
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
        tasks = [worker.tasks for worker in workers]
        if epochs != self.epochs or tasks != self.tasks:
            self.epochs, self.tasks = epochs, tasks
            for kept in (self._fits, self._penalties, self._homes):
                kept.clear()
            self._slots = None
        self.windows = [worker.window for worker in workers]
        self._columns = None
        self.usable = usable(workers, filters)
        all_usable = len(self.usable) == len(workers)
        self._unusable = frozenset() if all_usable else frozenset(range(len(workers))).difference(self.usable)
        self._candidates.clear()

    def _change(self, index: int, before: WorkerView, filters: Sequence[Filter]) -> bool:
        """Take over one worker that is not as it was; False if more has changed than what it owes."""
        now = self.workers[index]
        refused = any(rule.refuses(ANY_LANE, now) is not None for rule in filters)
        if _stays(now) != _stays(before) or now.tasks != before.tasks:
            return False
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
        demand = (lane.ingress, lane.task, lane.model, lane.requires, lane.prefers)
        candidates = self._candidates.get(demand)
        if candidates is None:
            candidates = self._candidates[demand] = self._find(demand, lane, policy)
        return candidates

    def _find(self, demand: Demand, lane: Lane, policy: Policy) -> Candidates:
        workers, unusable = self.workers, self._unusable
        fits = self._fits.get(demand)
        if fits is None:
            filters = [rule for rule in policy.filters if not rule.of_worker]
            fits = [i for i, worker in enumerate(workers) if all(rule.refuses(lane, worker) is None for rule in filters)]
            self._fits[demand] = fits
        indices = [i for i in fits if i not in unusable] if unusable else fits
        if labels.avoided(lane.requires) and not any(_stays(workers[i]) for i in fits):
            # Nobody else is left. The sender is told by a worker that cannot read the job, when it has it again.
            others = [rule for rule in policy.filters if not rule.of_worker and rule.name != CanRead.name]
            indices = [
                i for i, worker in enumerate(workers)
                if i not in unusable and all(rule.refuses(lane, worker) is None for rule in others)
            ]  # fmt: skip
        chosen = workers if len(indices) == len(workers) else [workers[i] for i in indices]
        model = lane.model
        speeds = [
            (worker.speeds.get(model, worker.weight) if worker.speeds else worker.weight) * worker.warmth for worker in chosen
        ]
        extra: list[float] = []
        on_its_way = False
        if cold_ms := time_to_load_ms(model, self._load_ms):
            extra = [load_penalty_ms(model, worker, cold_ms) for worker in chosen]
            on_its_way = any(model in worker.loading for worker in chosen)
            if on_its_way:
                extra = [load_ms and load_ms + cold_ms for load_ms in extra]
        if lane.prefers and policy.penalty_ms is not None:
            penalties = self._penalties.get(demand)
            if penalties is None:
                penalties = self._penalties[demand] = [policy.penalty_ms(lane, worker) for worker in workers]
            extra = [load_ms + penalties[i] for load_ms, i in zip(extra or repeat(0.0), indices, strict=False)]
        return Candidates(indices, speeds, extra if any(extra) else [], len(indices) == len(workers), model, cold_ms, on_its_way)

    def home(self, candidates: Candidates, slot: int) -> int:
        """Index of the worker that the slot belongs to. There must be at least one candidate."""
        if candidates.rendezvous is None:
            key = tuple(candidates.indices)
            if (rendezvous := self._homes.get(key)) is None:
                rendezvous = self._homes[key] = Rendezvous(key, [self.workers[i] for i in key])
            candidates.rendezvous = rendezvous
        return candidates.rendezvous.home(slot)


def _stays(worker: WorkerView) -> bool:
    """True if the worker will take jobs again, though it may be stuck or ejected now."""
    return worker.ended is None and not worker.draining


def usable(workers: Sequence[WorkerView], filters: Sequence[Filter]) -> list[int]:
    """Indices of the workers that none of these filters refuses, whatever the lane."""
    indices: Sequence[int] = range(len(workers))
    for rule in filters:
        keeps: Any = getattr(rule, "keeps", None)
        indices = keeps(workers, indices) if keeps else [i for i in indices if rule.refuses(ANY_LANE, workers[i]) is None]
    return list(indices)
