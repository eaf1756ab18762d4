"""What a worker life did, by kind of job: counted as jobs end, told with each beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nsmallest

import msgspec

from dispatcher.core.facts.evidence import PROBE_TASK, KindTotals, Memory, Running, WorkerTotals
from dispatcher.core.facts.lane import parse_lane
from dispatcher.store.frame import cost_of, lane_of
from dispatcher.worker.life.held import Held

RUNNING_MAX = 4
"""How many of the jobs that run are told of: the oldest, for one that takes far too long is among them."""


class Totals:
    """One life's. Not thread-safe: whoever calls holds the keeper's lock."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], KindTotals] = {}
        self._failures_in_row = 0
        self._probes = 0
        self._probes_failed_in_row = 0

    def probed(self, *, well: bool) -> None:
        """A probe ended. It is no job: it is in no kind, and ends no row of failures."""
        self._probes += 1
        self._probes_failed_in_row = 0 if well else self._probes_failed_in_row + 1

    def done(self, entry: bytes, busy_ms: int, *, guessed: bool) -> None:
        """A job ended well; ``guessed``: its producer said no cost."""
        kind = self._kind(entry)
        kind.done += 1
        kind.busy_ms += busy_ms
        cost_ms = cost_of(entry)
        kind.cost_ms += cost_ms
        if guessed:
            kind.guessed += 1
            kind.guessed_busy_ms += busy_ms
            kind.guessed_cost_ms += cost_ms
        self._failures_in_row = 0

    def failed(self, entry: bytes) -> None:
        """A job raised, or took its process down."""
        self._kind(entry).failed += 1
        self._failures_in_row += 1

    def retried(self, entry: bytes) -> None:
        """A job asked to be run again: neither well nor badly ended."""
        self._kind(entry).retried += 1

    def encoded(self, held: Iterable[Held], busy_ms: Callable[[Held], int], memory: Memory | None = None) -> bytes:
        """JSON of :class:`WorkerTotals`, ``held`` being the jobs that were taken and have not ended, ``busy_ms`` how long one has run."""
        begun = [(one.started_ms, one) for one in held if one.started_ms is not None and one.task != PROBE_TASK]
        oldest = nsmallest(RUNNING_MAX, begun, key=lambda pair: pair[0])
        running = []
        for _, one in oldest:
            lane = parse_lane(lane_of(one.entry))
            running.append(Running(lane.task, lane.model, busy_ms(one), cost_of(one.entry), one.guessed))
        return msgspec.json.encode(
            WorkerTotals(
                list(self._kinds.values()), self._failures_in_row, running, memory, self._probes, self._probes_failed_in_row
            )
        )

    def _kind(self, entry: bytes) -> KindTotals:
        lane = parse_lane(lane_of(entry))
        found = self._kinds.get((lane.task, lane.model))
        if found is None:
            found = self._kinds[lane.task, lane.model] = KindTotals(lane.task, lane.model)
        return found
