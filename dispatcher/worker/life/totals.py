"""What a worker did: counted as jobs end, and sent with each beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nsmallest

import msgspec

from dispatcher.core.facts.evidence import PROBE_TASK, KindTotals, Memory, Running, WorkerTotals
from dispatcher.core.facts.lane import parse_lane
from dispatcher.store.frame import cost_of, lane_of
from dispatcher.worker.life.held import Held, Outcome

RUNNING_MAX = 4
"""How many of the running jobs a beat describes: the oldest, since a job that takes far too long is among them."""


class Totals:
    """Counts of one worker. Not thread-safe: the caller holds the keeper's lock."""

    def __init__(self) -> None:
        self._ended = dict.fromkeys(Outcome, 0)
        self._busy_ms = 0
        self.begin_life()

    def begin_life(self) -> None:
        """Redis lost the worker's old life: what is learned from is counted from nothing, or it would be learned twice."""
        self._kinds: dict[tuple[str, str], KindTotals] = {}
        self._failures_in_row = 0
        self._probes = 0
        self._probes_failed_in_row = 0

    def facts(self) -> dict[str, int]:
        """Jobs by how they ended, and the time that they took, since the worker began."""
        return {
            "done": self._ended[Outcome.DONE],
            "failed": self._ended[Outcome.FAILED],
            "retried": self._ended[Outcome.RETRIED],
            "busy_ms": self._busy_ms,
        }

    def ended(self, held: Held, outcome: Outcome, busy_ms: int) -> None:
        """A job that was begun has ended after ``busy_ms``. A probe is no job: it is in no kind, and ends no row of
        failures.
        """
        if held.task == PROBE_TASK:
            self._probes += 1
            self._probes_failed_in_row = 0 if outcome is Outcome.DONE else self._probes_failed_in_row + 1
            return
        self._ended[outcome] += 1
        self._busy_ms += busy_ms
        if outcome is Outcome.DONE:
            self._done(held, busy_ms)
        elif outcome is Outcome.FAILED:  # it raised, or took its process down
            self._kind(held.entry).failed += 1
            self._failures_in_row += 1
        elif outcome is Outcome.RETRIED:  # neither well nor badly ended
            self._kind(held.entry).retried += 1

    def _done(self, held: Held, busy_ms: int) -> None:
        kind = self._kind(held.entry)
        kind.done += 1
        kind.busy_ms += busy_ms
        cost_ms = cost_of(held.entry)
        kind.cost_ms += cost_ms
        if held.guessed:
            kind.guessed += 1
            kind.guessed_busy_ms += busy_ms
            kind.guessed_cost_ms += cost_ms
        self._failures_in_row = 0

    def encoded(
        self, held: Iterable[Held], busy_ms: Callable[[Held], int], memory: Memory | None = None, changes: int = 0
    ) -> bytes:
        """JSON of :class:`WorkerTotals`. ``held``: jobs that were taken and have not ended; ``busy_ms``: how long a job
        has run.
        """
        begun = [(job.started_ms, job) for job in held if job.started_ms is not None and job.task != PROBE_TASK]
        oldest = nsmallest(RUNNING_MAX, begun, key=lambda pair: pair[0])
        running = []
        for _, job in oldest:
            lane = parse_lane(lane_of(job.entry))
            running.append(Running(lane.task, lane.model, busy_ms(job), cost_of(job.entry), job.guessed))
        return msgspec.json.encode(
            WorkerTotals(
                list(self._kinds.values()), self._failures_in_row, running, memory, self._probes,
                self._probes_failed_in_row, changes,
            )
        )

    def _kind(self, entry: bytes) -> KindTotals:
        lane = parse_lane(lane_of(entry))
        kind = self._kinds.get((lane.task, lane.model))
        if kind is None:
            kind = self._kinds[lane.task, lane.model] = KindTotals(lane.task, lane.model)
        return kind
