"""Keeps the leader's aliases up to date, lets guards decide about canaries, and moves jobs away from withdrawn versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.evidence import Delta, Told
from dispatcher.core.facts.lane import lane_name, parse_lane
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.rollout.aliases import POINTS, Rollout, Split, percent, split, version_now
from dispatcher.core.rollout.canary import Ended, RollBack, Step, Watch, next_stage, observe, verdict
from dispatcher.core.rollout.changes import roll_back, step
from dispatcher.errors import Invalid
from dispatcher.events import Event, JobsRerouted, RolloutChanged, RolloutRolledBack, RolloutStepped
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.rollout_store import Stored

REFRESH_MS: Final = 500
"""How often the aliases are read: so long may a change take to be heeded."""

RECALL_MAX: Final = 500
"""Leases that one script call ends at most."""

REROUTE_READ: Final = 100
"""Messages that one call reads."""

REROUTE_CALLS: Final = 5
"""Calls for one lane in one step."""

REROUTE_AGAIN_MS: Final = (1_000, 64_000)
"""When a lane of a withdrawn version is looked through again: longer each time that nothing had to move. Its jobs may have asked for
the version by name.
"""


class Rollouts:
    """The aliases of the cell that this process leads. Written by the dispatcher's loop alone."""

    def __init__(self, store: DispatchStore, routes: Mapping[str, str], emit: Callable[[Event], None]) -> None:
        self.splits: Mapping[str, Split] = {}
        self._store = store.rollouts()
        self._leases = store
        self._routes = routes
        self._emit = emit
        self._stored: dict[str, Stored] = {}
        self._watches: dict[str, Watch] = {}
        self._time_to_read = Every(REFRESH_MS)
        self._has_read = False
        self._lanes: dict[str, _Search] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._to_recall: frozenset[str] = frozenset()

    # -- what must survive a takeover

    def dump(self) -> bytes:
        """What the guards have seen."""
        return msgspec.json.encode(self._watches)

    def load(self, state: bytes) -> None:
        """Go on where another leader was; after :meth:`restart`, before the aliases are read."""
        self._watches = msgspec.json.decode(state, type=dict[str, Watch])

    def restart(self) -> None:
        """This process leads anew: nothing that it remembers holds."""
        self._time_to_read.restart()
        self._has_read = False
        self._stored = {}
        self._set()

    # -- the dispatcher's step

    def _refresh(self) -> None:
        found = self._store.read()
        first, self._has_read = not self._has_read, True
        if found == self._stored:
            return
        before, self._stored = self._stored, found
        self._set()
        if not first:
            for alias in sorted(before.keys() | found.keys()):
                was, now = before.get(alias), found.get(alias)
                if was != now:
                    self._emit(RolloutChanged(alias, _shares(now.rollout) if now else ()))

    def observe(self, deltas: Sequence[Delta], told: Sequence[Told], now_ms: int) -> None:
        """What workers ended since the last look: evidence for the guards."""
        guards = {alias: guard for alias, one in self._stored.items() if (guard := one.rollout.guard) is not None}
        if not guards:
            return
        weights = {one.epoch: one.weight for one in told}
        block = [
            Ended(one.model, one.name, one.done, one.failed + one.retried, one.busy_ms, weights.get(one.epoch, 1.0)) for one in deltas
        ]
        for alias, guard in guards.items():
            observe(self._watches[alias], guard, block)

    def step(self, lanes: Sequence[LaneView], workers: Sequence[WorkerView], *, now_ms: int, monotonic_ms: int) -> int:
        """Read the aliases if it is time to, let the guards decide, and take jobs away from withdrawn versions, before a plan gives out
        more of them. How many were moved. ``splits`` is what admission is to go by then.
        """
        if self._time_to_read.due(monotonic_ms):
            self._refresh()
        for alias in list(self._stored):
            self._decide(alias, now_ms)
        if not self._withdrawn:
            return 0
        recalled = self._recall(workers)
        return self._reroute({*recalled, *(lane.name for lane in lanes if lane.lane.model in self._withdrawn)}, monotonic_ms)

    # -- guards

    def _decide(self, alias: str, now_ms: int) -> None:
        seen = self._stored[alias]
        guard = seen.rollout.guard
        if guard is None:
            return
        found = verdict(self._watches[alias], guard, now_ms)
        match found:
            case RollBack(reason):
                wanted = roll_back(seen.rollout, reason, now_ms)
                event: Event = RolloutRolledBack(alias, guard.candidate, guard.baseline, reason)
            case Step(reason):
                wanted = step(seen.rollout, now_ms)
                event = RolloutStepped(alias, guard.candidate, percent(guard.steps[0]), reason)
            case _:
                return
        stored = self._store.change(alias, seen, wanted)
        if stored is None:  # an operator was quicker: the next look sees what was wanted
            self._time_to_read.restart()
            return
        self._stored[alias] = stored
        self._set()
        self._emit(event)

    def _set(self) -> None:
        """All that follows from the aliases as they are now."""
        self.splits = {alias: split(alias, one.rollout) for alias, one in self._stored.items()}
        self._lanes = {}
        withdrawn = frozenset(version for one in self._stored.values() for version in one.rollout.withdrawn)
        self._to_recall = (self._to_recall | withdrawn - self._withdrawn) & withdrawn
        self._withdrawn = withdrawn
        watches: dict[str, Watch] = {}
        for alias, one in self._stored.items():
            guard = one.rollout.guard
            if guard is None:
                continue
            watch = self._watches.get(alias)
            if watch is None or watch.began_ms != guard.began_ms:
                watch = Watch(guard.began_ms)
            while watch.errors.over < guard.stages - 1 - sum(share < POINTS for share in guard.steps):
                next_stage(watch)
            watches[alias] = watch
        self._watches = watches

    # -- withdrawn versions

    def _recall(self, workers: Sequence[WorkerView]) -> set[str]:
        """Once for each version that is withdrawn: what workers hold of it and have not begun goes back to its lanes. Those lanes."""
        versions, lanes, is_done = self._to_recall, set[str](), True
        for worker in workers if versions else ():
            if worker.ended is None and worker.leases > worker.taken and worker.models & versions:
                found = [
                    (id_, entry.lane)
                    for id_, entry, taken in self._leases.leases(worker.epoch)
                    if not taken and parse_lane(entry.lane).model in versions
                ]
                if found:
                    self._leases.giveback(worker.epoch, [GiveBack(id_, "recalls") for id_, _ in found[:RECALL_MAX]])
                    lanes.update(lane for _, lane in found)
                is_done = is_done and len(found) <= RECALL_MAX
        if is_done:
            self._to_recall = frozenset()
        return lanes

    def _reroute(self, lanes: set[str], monotonic_ms: int) -> int:
        moved = 0
        for lane in sorted(lanes):
            search = self._lanes.setdefault(lane, _Search())
            if monotonic_ms >= search.at_ms and (count := self._reroute_lane(lane, search, monotonic_ms)):
                self._emit(JobsRerouted(parse_lane(lane).model, count))
                moved += count
        return moved

    def _reroute_lane(self, name: str, search: _Search, monotonic_ms: int) -> int:
        """Look through some of the lane, newest job first, as ``RolloutStore.reroute`` wants it."""
        lane = parse_lane(name)
        moved = 0
        for _ in range(REROUTE_CALLS):
            found = self._store.waiting(name, search.stay, REROUTE_READ)
            moves = []
            for frame, message in found:
                version = self._version(message)
                if version is not None and version != lane.model:
                    moves.append((frame, lane_name(replace(lane, model=version))))
            search.stay += len(found) - len(moves)
            if moves:
                moved += self._store.reroute(name, moves)
            if len(found) < REROUTE_READ:
                search.again(monotonic_ms, moved=bool(moved))
                break
        return moved

    def _version(self, message: bytes) -> str | None:
        try:
            return version_now(message, self.splits, self._routes)
        except (ValueError, Invalid):  # it was admitted once; whatever it is, it may stay
            return None


class _Search:
    """How far a lane of a withdrawn version was looked through. ``stay``: jobs at its new end that are to stay."""

    def __init__(self) -> None:
        self.stay = 0
        self.at_ms = 0
        self._wait_ms = REROUTE_AGAIN_MS[0]

    def again(self, monotonic_ms: int, *, moved: bool) -> None:
        shortest, longest = REROUTE_AGAIN_MS
        self._wait_ms = shortest if moved else min(longest, self._wait_ms * 2)
        self.at_ms, self.stay = monotonic_ms + self._wait_ms, 0


def _shares(rollout: Rollout) -> tuple[str, ...]:
    return tuple(f"{version} {percent(points)}" for version, points in rollout.shares().items())
