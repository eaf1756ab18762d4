"""Publishes why jobs wait: in Redis for `status` and its like, and as events where no worker may have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
import redis

from dispatcher.core.choosing.explain import refusals
from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.choosing.unroutable import UnroutableLanes
from dispatcher.core.facts.decisions import Hold, Plan
from dispatcher.core.facts.every import Every
from dispatcher.core.facts.labels import Wanted
from dispatcher.core.facts.lane import Lane, parse_lane
from dispatcher.core.facts.snapshot import LaneView, Snapshot
from dispatcher.events import Event, LaneRoutable, LaneUnroutable
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.leader_view import EXPIRES_MS, HeldLane, LeaderView
from dispatcher.store.leader.views import learned

log = logging.getLogger(__name__)

PUBLISH_MS: Final = 1_000
"""How often the lanes are looked at, and what has changed published: there may be thousands of lanes, and hundreds of
steps a second.
"""

HOLDS_MAX: Final = 200
"""Lanes in one report at most; those that are unroutable come first."""

WAITS_FOR_MAX: Final = 20

PAIRS_MAX: Final = 2_000
"""Refusals are looked up for about so many (lane, worker) pairs a write: 2 ms."""

Asked = tuple[str, str, str, Wanted]
"""What decides which workers may have a lane's jobs: ingress, task, model, requires."""


class WaitingReport:
    """One leader's report of waiting jobs. :meth:`step` costs next to nothing but once a second."""

    def __init__(
        self,
        store: DispatchStore,
        filters: Sequence[Filter],
        emit: Callable[[Event], None],
        *,
        strategy: str,
        unroutable_after_ms: int,
    ) -> None:
        """``strategy``: name of the one that the leader goes by. ``unroutable_after_ms``: an event is emitted for a
        lane that no worker may serve once it has been so for this long.
        """
        self._store = store
        self._filters = filters
        self._emit = emit
        self._strategy = strategy
        self._unroutable_after_ms = unroutable_after_ms
        self.restart()

    def restart(self) -> None:
        """The lead was gained: what was published and alerted in an earlier lead may not hold."""
        self._unroutable = UnroutableLanes(self._unroutable_after_ms)
        self._alerted: dict[Asked, str] = {}  # one alert for all lanes that ask the same: there may be one for each session
        self._time_to_publish = Every(PUBLISH_MS)
        self._published = b""
        self._published_ms = 0

    def step(self, snapshot: Snapshot, decided: Plan, *, monotonic_ms: int) -> None:
        """Publish, when it is time, why the jobs of this snapshot wait by this plan."""
        if not self._time_to_publish.due(monotonic_ms):
            return
        self._alert(snapshot, decided, monotonic_ms)
        encoded = msgspec.json.encode(self._view(snapshot, decided.holds, monotonic_ms))
        if encoded == self._published and monotonic_ms - self._published_ms < EXPIRES_MS // 2:
            return
        try:
            self._store.tell(encoded)
        except redis.ResponseError as exc:  # out of memory, say: dispatching does not depend on it
            log.debug("why jobs wait is not published: %s", exc)
            return
        self._published, self._published_ms = encoded, monotonic_ms

    def _alert(self, snapshot: Snapshot, decided: Plan, monotonic_ms: int) -> None:
        unroutable = {hold.lane for hold in decided.holds if hold.reason == "unroutable"}
        lanes = {lane.name: lane for lane in snapshot.lanes}
        placed = {assign.lane for assign in decided.assignments}
        # Of a paused lane nobody can say; one that is not there any more waits for nothing.
        others = {hold.lane for hold in decided.holds if hold.reason != "paused"} - unroutable
        gone = self._unroutable.known - lanes.keys() - unroutable
        self._unroutable.look(unroutable, placed | others | gone, monotonic_ms)
        lasting: dict[Asked, list[LaneView]] = {}
        for name in self._unroutable.lasting:
            lasting.setdefault(_asked(parse_lane(name)), []).extend([lanes[name]] if name in lanes else [])
        for asked in lasting.keys() - self._alerted.keys():
            if views := lasting[asked]:
                first = min(views, key=lambda lane: lane.job)
                refused = refusals(first, snapshot.workers, self._filters)
                why = tuple(f"{count} × {kind}: {example}" for kind, (count, example) in refused.items())
                self._alerted[asked] = first.name
                self._emit(LaneUnroutable(first.name, sum(lane.depth for lane in views), why))
        for asked in self._alerted.keys() - lasting.keys():
            self._emit(LaneRoutable(self._alerted.pop(asked)))

    def _view(self, snapshot: Snapshot, holds: Sequence[Hold], monotonic_ms: int) -> LeaderView:
        held = sorted(holds, key=lambda hold: (hold.reason != "unroutable", hold.lane))
        return LeaderView(
            strategy=self._strategy,
            holds=tuple(self._held(held[:HOLDS_MAX], snapshot, monotonic_ms)),
            holds_left_out=max(0, len(held) - HOLDS_MAX),
            unroutable=len(self._unroutable.lasting),
            workers={worker.epoch: learned(worker) for worker in snapshot.workers if worker.ended is None},
            load_ms=dict(snapshot.load_ms),
        )

    def _held(self, holds: Sequence[Hold], snapshot: Snapshot, monotonic_ms: int) -> Iterator[HeldLane]:
        lanes = {lane.name: lane for lane in snapshot.lanes}
        names = {worker.epoch: worker.name for worker in snapshot.workers}
        known: dict[Asked, dict[str, tuple[int, str]]] = {}  # lanes that ask the same are refused the same
        pairs = PAIRS_MAX
        for hold in holds:
            lane = lanes.get(hold.lane)
            refused: dict[str, tuple[int, str]] = {}
            if lane is not None and hold.reason != "paused":
                asked = _asked(lane.lane)
                if asked not in known and pairs > 0:
                    known[asked] = refusals(lane, snapshot.workers, self._filters)
                    pairs -= len(snapshot.workers)
                refused = known.get(asked, refused)
            waits_for = {names.get(epoch, epoch): jobs for epoch, jobs in islice(hold.waits_for.items(), WAITS_FOR_MAX)}
            unroutable_s = self._unroutable.waited_ms(hold.lane, monotonic_ms) // 1000
            yield HeldLane(hold.lane, hold.reason, refused, waits_for, unroutable_s)


def _asked(lane: Lane) -> Asked:
    return lane.ingress, lane.task, lane.model, lane.requires
