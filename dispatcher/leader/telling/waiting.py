"""Tells why jobs wait: to Redis for those who look, and as events where no worker may have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
import redis

from dispatcher.core.choosing.explain import refusals
from dispatcher.core.choosing.strategies.base import Filter
from dispatcher.core.choosing.unroutable import UnroutableLanes
from dispatcher.core.facts.decisions import Hold, Plan
from dispatcher.core.facts.every import Every
from dispatcher.core.facts.labels import Wanted
from dispatcher.core.facts.lane import Lane, parse_lane
from dispatcher.core.facts.snapshot import LaneView, Snapshot
from dispatcher.events import Event, LaneRoutable, LaneUnroutable
from dispatcher.settings import Settings
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.leader_view import EXPIRES_MS, HeldLane, LeaderView
from dispatcher.store.leader.views import learned

log = logging.getLogger(__name__)

TELL_MS: Final = 1_000
"""So often is looked, and what has changed written: there may be thousands of lanes, and hundreds of ticks a second."""

HOLDS_MAX: Final = 200
"""Lanes told of at most; those that are unroutable come first."""

WAITS_FOR_MAX: Final = 20

PAIRS_MAX: Final = 2_000
"""Refusals are looked up for about so many (lane, worker) pairs a write: 2 ms."""

Asked = tuple[str, str, str, Wanted]
"""What decides which workers may have a lane's jobs: ingress, task, model, requires."""


class Teller:
    """One leader's. :meth:`step` costs next to nothing but once a second."""

    def __init__(
        self, store: DispatchStore, settings: Settings, filters: Sequence[Filter], emit: Callable[[Event], None]
    ) -> None:
        self._store = store
        self._settings = settings
        self._filters = filters
        self._emit = emit
        self._unroutable = UnroutableLanes(round(settings.unroutable_after_s * 1000))
        self._alerted: dict[Asked, str] = {}  # one alert for all lanes that ask the same: there may be one for each session
        self._time_to_tell = Every(TELL_MS)
        self._told = b""
        self._told_ms = 0

    def step(self, snapshot: Snapshot, decided: Plan, *, monotonic_ms: int) -> None:
        """Tell, when it is time, what a plan over the snapshot decided."""
        if not self._time_to_tell.due(monotonic_ms):
            return
        self._alert(snapshot, decided, monotonic_ms)
        encoded = msgspec.json.encode(self._view(snapshot, decided.holds, monotonic_ms))
        if encoded == self._told and monotonic_ms - self._told_ms < EXPIRES_MS // 2:
            return
        try:
            self._store.tell(encoded)
        except redis.ResponseError as exc:  # out of memory, say: dispatching does not depend on it
            log.debug("what the leader sees is not told: %s", exc)
            return
        self._told, self._told_ms = encoded, monotonic_ms

    def _alert(self, snapshot: Snapshot, decided: Plan, now_ms: int) -> None:
        unroutable = {hold.lane for hold in decided.holds if hold.reason == "unroutable"}
        lanes = {lane.name: lane for lane in snapshot.lanes}
        placed = {one.lane for one in decided.assignments}
        # Of a paused lane nobody can say; one that is not there any more waits for nothing.
        others = {hold.lane for hold in decided.holds if hold.reason != "paused"} - unroutable
        gone = self._unroutable.known - lanes.keys() - unroutable
        self._unroutable.look(unroutable, placed | others | gone, now_ms)
        told: dict[Asked, list[LaneView]] = {}
        for name in self._unroutable.lasting:
            told.setdefault(_asked(parse_lane(name)), []).extend([lanes[name]] if name in lanes else [])
        for asked in told.keys() - self._alerted.keys():
            if found := told[asked]:
                first = min(found, key=lambda lane: lane.job)
                refused = refusals(first, snapshot.workers, self._filters)
                why = tuple(f"{count} × {kind}: {example}" for kind, (count, example) in refused.items())
                self._alerted[asked] = first.name
                self._emit(LaneUnroutable(first.name, sum(lane.depth for lane in found), why))
        for asked in self._alerted.keys() - told.keys():
            self._emit(LaneRoutable(self._alerted.pop(asked)))

    def _view(self, snapshot: Snapshot, holds: Sequence[Hold], now_ms: int) -> LeaderView:
        held = sorted(holds, key=lambda hold: (hold.reason != "unroutable", hold.lane))
        return LeaderView(
            strategy=self._settings.strategy,
            holds=tuple(self._held(held[:HOLDS_MAX], snapshot, now_ms)),
            holds_left_out=max(0, len(held) - HOLDS_MAX),
            unroutable=len(self._unroutable.lasting),
            workers={worker.epoch: learned(worker) for worker in snapshot.workers if worker.ended is None},
            load_ms=dict(snapshot.load_ms),
        )

    def _held(self, holds: Sequence[Hold], snapshot: Snapshot, now_ms: int) -> Iterator[HeldLane]:
        lanes = {lane.name: lane for lane in snapshot.lanes}
        names = {worker.epoch: worker.name for worker in snapshot.workers}
        known: dict[Asked, dict[str, tuple[int, str]]] = {}  # lanes that ask the same are refused the same
        pairs = PAIRS_MAX
        for hold in holds:
            lane = lanes.get(hold.lane)
            found: dict[str, tuple[int, str]] = {}
            if lane is not None and hold.reason != "paused":
                asked = _asked(lane.lane)
                if asked not in known and pairs > 0:
                    known[asked] = refusals(lane, snapshot.workers, self._filters)
                    pairs -= len(snapshot.workers)
                found = known.get(asked, found)
            waits_for = {names.get(epoch, epoch): jobs for epoch, jobs in islice(hold.waits_for.items(), WAITS_FOR_MAX)}
            unroutable_s = self._unroutable.waited_ms(hold.lane, now_ms) // 1000
            yield HeldLane(hold.lane, hold.reason, found, waits_for, unroutable_s)


def _asked(lane: Lane) -> Asked:
    return lane.ingress, lane.task, lane.model, lane.requires
