"""Moves jobs away from model versions that were withdrawn: those in lanes, and those that a worker owes and has not
begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from dispatcher.core.facts.lane import lane_name, parse_lane
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.core.rollout.aliases import Split, version_now
from dispatcher.errors import Invalid
from dispatcher.events import Event, JobsRerouted
from dispatcher.leader.returns.unbegun import UnbegunJobs, owes_unbegun
from dispatcher.store.giveback import GIVEBACK_MAX
from dispatcher.store.leader.rollout_store import RolloutStore

REROUTE_READ: Final = 100
"""Messages that one call reads."""

REROUTE_CALLS: Final = 5
"""Calls for one lane in one step."""

REROUTE_AGAIN_MS: Final = (1_000, 64_000)
"""When a lane of a withdrawn version is looked through again: longer each time that nothing had to move. Its jobs may
have asked for the version by name.
"""


class WithdrawnJobs:
    """Jobs of versions that were withdrawn and that are to run at another version. Costs nothing where no version is
    withdrawn.
    """

    def __init__(self, store: RolloutStore, unbegun: UnbegunJobs, routes: Mapping[str, str], emit: Callable[[Event], None]) -> None:
        """``routes``: task → model of its jobs that name none."""
        self._store = store
        self._unbegun = unbegun
        self._routes = routes
        self._emit = emit
        self._splits: Mapping[str, Split] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._to_recall: frozenset[str] = frozenset()
        self._searches: dict[str, _Search] = {}

    def go_by(self, withdrawn: frozenset[str], splits: Mapping[str, Split]) -> None:
        """Go by these aliases from now on: all lanes of withdrawn versions are looked through again."""
        self._splits = splits
        self._searches = {}
        self._to_recall = (self._to_recall | withdrawn - self._withdrawn) & withdrawn
        self._withdrawn = withdrawn

    def step(self, lanes: Sequence[LaneView], workers: Sequence[WorkerView], monotonic_ms: int) -> int:
        """Take jobs away from withdrawn versions, before a plan gives out more of them. How many were moved."""
        if not self._withdrawn:
            return 0
        recalled = self._recall(workers)
        moved = 0
        for lane in sorted({*recalled, *(view.name for view in lanes if view.lane.model in self._withdrawn)}):
            search = self._searches.setdefault(lane, _Search())
            if monotonic_ms >= search.at_ms and (count := self._reroute(lane, search, monotonic_ms)):
                self._emit(JobsRerouted(parse_lane(lane).model, count))
                moved += count
        return moved

    def _recall(self, workers: Sequence[WorkerView]) -> set[str]:
        """Give back, once for each withdrawn version, what workers hold of it and have not begun. The lanes of these
        jobs.
        """
        versions, lanes, is_done = self._to_recall, set[str](), True
        for worker in workers if versions else ():
            if owes_unbegun(worker) and worker.models & versions:
                jobs = [job for job in self._unbegun.of(worker.epoch) if job.lane.model in versions]
                self._unbegun.give_back(worker.epoch, jobs)
                lanes.update(job.entry.lane for job in jobs)
                is_done = is_done and len(jobs) <= GIVEBACK_MAX
        if is_done:
            self._to_recall = frozenset()
        return lanes

    def _reroute(self, name: str, search: _Search, monotonic_ms: int) -> int:
        """Look through some of the lane, newest job first, as ``RolloutStore.reroute`` wants it."""
        lane = parse_lane(name)
        moved = 0
        for _ in range(REROUTE_CALLS):
            waiting = self._store.waiting(name, search.stay, REROUTE_READ)
            moves = []
            for frame, message in waiting:
                version = self._version(message)
                if version is not None and version != lane.model:
                    moves.append((frame, lane_name(replace(lane, model=version))))
            search.stay += len(waiting) - len(moves)
            if moves:
                moved += self._store.reroute(name, moves)
            if len(waiting) < REROUTE_READ:
                search.again(monotonic_ms, moved=bool(moved))
                break
        return moved

    def _version(self, message: bytes) -> str | None:
        try:
            return version_now(message, self._splits, self._routes)
        except (ValueError, Invalid):  # it was admitted once; whatever it is, it may stay
            return None


class _Search:
    """How far a lane of a withdrawn version was looked through."""

    def __init__(self) -> None:
        self.stay = 0
        """Jobs at the new end of the lane that are to stay."""
        self.at_ms = 0
        """When it is looked through next."""
        self._wait_ms = REROUTE_AGAIN_MS[0]

    def again(self, monotonic_ms: int, *, moved: bool) -> None:
        shortest, longest = REROUTE_AGAIN_MS
        self._wait_ms = shortest if moved else min(longest, self._wait_ms * 2)
        self.at_ms, self.stay = monotonic_ms + self._wait_ms, 0
