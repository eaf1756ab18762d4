"""Runs suspects alone: jobs that died with their workers so often that one more death would bury them (``core/poison.py``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
from msgspec import structs

from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.facts.decisions import Hold, Plan
from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.returns.suspects import place_suspects
from dispatcher.events import Event, SuspectIsolated
from dispatcher.store.leader.dispatch_store import DispatchStore

KEPT: Final = "kept for a suspect, which runs alone"


class Others(msgspec.Struct, frozen=True):
    """What is left for the plan: lanes without suspects, and workers of which those that are kept for suspects get nothing. ``holds``:
    why suspects wait, whose lanes are ``suspects``.
    """

    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerView, ...]
    suspects: tuple[LaneView, ...] = ()
    holds: tuple[Hold, ...] = ()

    def told(self, planned: Snapshot, decided: Plan) -> tuple[Snapshot, Plan]:
        """The plan and its snapshot with what was decided here: for those who are told why jobs wait."""
        if not self.suspects:
            return planned, decided
        return structs.replace(planned, lanes=planned.lanes + self.suspects), structs.replace(decided, holds=decided.holds + self.holds)


class Suspects:
    """One leader's. Costs a look at the names of the lanes where there is no suspect."""

    def __init__(self, store: DispatchStore, filters: Sequence[Filter], emit: Callable[[Event], None]) -> None:
        self._leases = store
        self._store = store.suspects()
        self._filters = filters
        self._emit = emit
        self._emptying: frozenset[str] = frozenset()
        self._alone: set[str] | None = None  # None: a new leader does not know where suspects run

    def restart(self) -> None:
        """The lead is new: another dispatcher may have placed some."""
        self._alone, self._emptying = None, frozenset()

    def step(self, lanes: tuple[LaneView, ...], workers: tuple[WorkerView, ...], paused: Collection[str]) -> Others:
        """Place suspects that wait; what the plan may do with the rest."""
        if self._alone is None:
            self._alone = self._store.free(self._store.epochs())
        suspects = tuple(view for view in lanes if view.lane.alone)
        if not suspects and not self._alone:
            self._emptying = frozenset()
            return Others(lanes, workers)
        at_work = {worker.epoch for worker in workers if worker.leases}
        if not self._alone <= at_work:
            self._alone = self._store.free(self._alone)
        found = place_suspects(suspects, workers, self._filters, alone=self._alone, emptying=self._emptying, paused=paused)
        self._emptying = found.emptying
        names = {worker.epoch: worker.name for worker in workers}
        for lane, epoch in found.assign:
            # Before the call: should its answer be lost, the next looks tell whether it was done.
            self._alone.add(epoch)
            if self._store.assign(epoch, lane=lane):
                self._emit(SuspectIsolated(names[epoch], epoch, lane))
        for worker in workers:
            if worker.epoch in found.emptying and worker.leases > worker.taken:
                self._recall(worker)
        kept = self._alone | found.emptying
        return Others(
            tuple(view for view in lanes if not view.lane.alone),
            tuple(structs.replace(worker, ejected=KEPT) if worker.epoch in kept else worker for worker in workers),
            suspects,
            found.holds,
        )

    def _recall(self, worker: WorkerView) -> None:
        """What it has not begun may as well begin elsewhere."""
        leases = self._leases.leases(worker.epoch)
        back = [GiveBack(id_, "recalls") for id_, entry, taken in leases if not taken and parse_lane(entry.lane).task != PROBE_TASK]
        if back:
            self._leases.giveback(worker.epoch, back)
