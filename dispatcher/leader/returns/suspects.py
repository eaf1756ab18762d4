"""Runs suspects alone: jobs that died with their workers so often that one more death would bury them
(``core/returns/poison.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
from msgspec import structs

from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts.decisions import Hold, Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.core.returns.suspects import place_suspects
from dispatcher.events import Event, SuspectIsolated
from dispatcher.leader.returns.unbegun import UnbegunJobs, owes_unbegun
from dispatcher.store.leader.suspect_store import SuspectStore

KEPT: Final = "kept for a suspect, which runs alone"


class Others(msgspec.Struct, frozen=True):
    """What is left for the plan."""

    lanes: tuple[LaneView, ...]
    """The lanes without suspects."""
    workers: tuple[WorkerView, ...]
    """All workers; those that are kept for suspects count as ejected."""
    suspects: tuple[LaneView, ...] = ()
    """The lanes of suspects."""
    holds: tuple[Hold, ...] = ()
    """Why suspects wait."""

    def with_suspects(self, planned: Snapshot, decided: Plan) -> tuple[Snapshot, Plan]:
        """The plan and its snapshot with the suspects that wait: for the report of waiting jobs."""
        if not self.suspects:
            return planned, decided
        return structs.replace(planned, lanes=planned.lanes + self.suspects), structs.replace(decided, holds=decided.holds + self.holds)


class Suspects:
    """One leader's placing of suspects. Where there is none it costs a look at the names of the lanes."""

    def __init__(self, store: SuspectStore, unbegun: UnbegunJobs, filters: Sequence[Filter], emit: Callable[[Event], None]) -> None:
        self._store = store
        self._unbegun = unbegun
        self._filters = filters
        self._emit = emit
        self._emptying: frozenset[str] = frozenset()
        self._alone: set[str] | None = None  # None: a new leader does not know where suspects run

    def restart(self) -> None:
        """The lead is new: another dispatcher may have placed some."""
        self._alone, self._emptying = None, frozenset()

    def step(self, lanes: tuple[LaneView, ...], workers: tuple[WorkerView, ...], paused: Collection[str]) -> Others:
        """Give waiting suspects workers of their own. What the plan may use of the rest."""
        if self._alone is None:
            self._alone = self._store.free(self._store.epochs())
        suspects = tuple(view for view in lanes if view.lane.alone)
        if not suspects and not self._alone:
            self._emptying = frozenset()
            return Others(lanes, workers)
        at_work = {worker.epoch for worker in workers if worker.leases}
        if not self._alone <= at_work:
            self._alone = self._store.free(self._alone)
        quarantine = place_suspects(suspects, workers, self._filters, alone=self._alone, emptying=self._emptying, paused=paused)
        self._emptying = quarantine.emptying
        names = {worker.epoch: worker.name for worker in workers}
        for lane, epoch in quarantine.assign:
            # Before the call: should its answer be lost, the next looks tell whether it was done.
            self._alone.add(epoch)
            if self._store.assign(epoch, lane=lane):
                self._emit(SuspectIsolated(names[epoch], epoch, lane))
        for worker in workers:
            if worker.epoch in quarantine.emptying and owes_unbegun(worker):
                self._unbegun.give_back(worker.epoch, self._unbegun.of(worker.epoch))  # it may as well begin elsewhere
        kept = self._alone | quarantine.emptying
        return Others(
            tuple(view for view in lanes if not view.lane.alone),
            tuple(structs.replace(worker, ejected=KEPT) if worker.epoch in kept else worker for worker in workers),
            suspects,
            quarantine.holds,
        )
