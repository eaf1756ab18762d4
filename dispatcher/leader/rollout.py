"""Keeps the leader's aliases up to date, and lets guards decide about canaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.evidence import Delta, WorkerReport
from dispatcher.core.rollout.aliases import POINTS, Rollout, Split, percent, split
from dispatcher.core.rollout.canary import Ended, RollBack, Step, Watch, next_stage, observe, verdict
from dispatcher.core.rollout.changes import roll_back, step, step_begins
from dispatcher.events import Event, RolloutChanged, RolloutRolledBack, RolloutStepped
from dispatcher.leader.returns.withdrawn import WithdrawnJobs
from dispatcher.store.leader.rollout_store import RolloutStore, Stored

REFRESH_MS: Final = 500
"""How often the aliases are read: it takes so long at most until a change is heeded."""


class Rollouts:
    """The aliases of the cell that this process leads. Written by the dispatcher's loop alone."""

    def __init__(self, store: RolloutStore, withdrawn: WithdrawnJobs, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._withdrawn = withdrawn
        self._emit = emit
        self.splits: Mapping[str, Split] = {}
        """Alias → its versions: what admission goes by."""
        self._stored: dict[str, Stored] = {}
        self._watches: dict[str, Watch] = {}
        self._time_to_read = Every(REFRESH_MS)
        self._has_read = False

    # -- what must survive a takeover

    def dump(self) -> bytes:
        """What the guards have seen."""
        return msgspec.json.encode(self._watches)

    def load(self, state: bytes) -> None:
        """Go on where another leader was; after :meth:`restart`, before the aliases are read."""
        self._watches = msgspec.json.decode(state, type=dict[str, Watch])

    def restart(self) -> None:
        """The lead was gained: read all aliases anew."""
        self._time_to_read.restart()
        self._has_read = False
        self._stored = {}
        self._set()

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        """Count what workers ended since the last read: evidence for the guards."""
        guards = {alias: guard for alias, stored in self._stored.items() if (guard := stored.rollout.guard) is not None}
        if not guards:
            return
        weights = {report.epoch: report.weight for report in reports}
        block = [
            Ended(new.model, new.name, new.done, new.failed + new.retried, new.busy_ms, weights.get(new.epoch, 1.0)) for new in deltas
        ]
        for alias, guard in guards.items():
            observe(self._watches[alias], guard, block)

    # -- the dispatcher's step

    def step(self, *, now_ms: int, monotonic_ms: int) -> None:
        """Read the aliases if it is time to, and let the guards decide; :attr:`splits` is up to date then."""
        if self._time_to_read.due(monotonic_ms):
            self._refresh()
        for alias in list(self._stored):
            self._decide(alias, now_ms)

    def _refresh(self) -> None:
        aliases = self._store.read()
        first, self._has_read = not self._has_read, True
        if aliases == self._stored:
            return
        before, self._stored = self._stored, aliases
        self._set()
        if not first:
            for alias in sorted(before.keys() | aliases.keys()):
                was, now = before.get(alias), aliases.get(alias)
                if was != now:
                    self._emit(RolloutChanged(alias, _shares(now.rollout) if now else ()))

    # -- guards

    def _decide(self, alias: str, now_ms: int) -> None:
        seen = self._stored[alias]
        guard = seen.rollout.guard
        if guard is None:
            return
        event: Event | None = None
        match verdict(self._watches[alias], guard, now_ms):
            case RollBack(reason):
                wanted = roll_back(seen.rollout, reason, now_ms)
                event = RolloutRolledBack(alias, guard.candidate, guard.baseline, reason)
            case Step(reason):
                wanted = step(seen.rollout, now_ms)
                event = RolloutStepped(alias, guard.candidate, percent(guard.steps[0]), reason)
            case _ if guard.step_began_ms > now_ms:
                wanted = step_begins(seen.rollout, now_ms)
            case _:
                return
        stored = self._store.change(alias, seen, wanted)
        if stored is None:  # an operator was quicker: the next read shows what the alias is now
            self._time_to_read.restart()
            return
        self._stored[alias] = stored
        self._set()
        if event is not None:
            self._emit(event)

    def _set(self) -> None:
        """All that follows from the aliases as they are now."""
        self.splits = {alias: split(alias, stored.rollout) for alias, stored in self._stored.items()}
        withdrawn = frozenset(version for stored in self._stored.values() for version in stored.rollout.withdrawn)
        self._withdrawn.go_by(withdrawn, self.splits)
        watches: dict[str, Watch] = {}
        for alias, stored in self._stored.items():
            guard = stored.rollout.guard
            if guard is None:
                continue
            watch = self._watches.get(alias)
            if watch is None or watch.began_ms != guard.began_ms:
                watch = Watch(guard.began_ms)
            while watch.errors.over < guard.stages - 1 - sum(share < POINTS for share in guard.steps):
                next_stage(watch)
            watches[alias] = watch
        self._watches = watches


def _shares(rollout: Rollout) -> tuple[str, ...]:
    return tuple(f"{version} {percent(points)}" for version, points in rollout.shares().items())
