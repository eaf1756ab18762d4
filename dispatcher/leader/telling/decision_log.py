"""Writes down what the leader decides, for `dispatcher explain`: gathered in memory for a moment, written four times a
second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import redis

from dispatcher.core.choosing.explain import candidates, refusals
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.every import Every
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import LaneView, Snapshot
from dispatcher.store.leader.admit_batch import AdmitBatch
from dispatcher.store.leader.decision_store import Decision, Given, Ranked, Tick
from dispatcher.store.leader.dispatch_store import Applied, DispatchStore

log = logging.getLogger(__name__)

WRITE_MS: Final = 250
PAIRS_MAX: Final = 200
"""(lane, worker) pairs that are ranked from one write to the next, on average. Each takes some 10 µs: 1 % of the time
in all. One lane of a large fleet uses up the share of several writes.
"""
RANKED_WORKERS_MAX: Final = 2_000
RANKED: Final = 5

_encode = msgspec.json.Encoder().encode


class DecisionLog:
    """One leader's. ``kept``: how many jobs the log is about at most, in memory too; 0 for a log that is off."""

    def __init__(self, store: DispatchStore, *, kept: int, policy: Policy) -> None:
        self._store = store
        self._kept = kept
        self._policy = policy
        self.restart()

    def restart(self) -> None:
        """The lead was gained: what was not written in an earlier lead is not written now."""
        self._ticks: deque[tuple[int, Tick]] = deque()
        self._jobs = 0
        self._pairs = PAIRS_MAX
        self._time_to_write = Every(WRITE_MS)

    def step(
        self, snapshot: Snapshot, batches: Sequence[AdmitBatch], decided: Plan, applied: Applied, *, monotonic_ms: int
    ) -> None:
        """Note what a tick did, and write when it is time."""
        if not self._kept:
            return
        admitted, assigned = sum(applied.admitted), sum(applied.assigned)
        if admitted or assigned:
            tick = Tick(_admitted(batches, applied), self._decisions(snapshot, decided, applied))
            self._ticks.append((max(admitted, assigned), tick))
            self._jobs += max(admitted, assigned)
            while self._jobs > self._kept and len(self._ticks) > 1:
                self._jobs -= self._ticks.popleft()[0]
        if self._ticks and self._time_to_write.due(monotonic_ms):
            self._write()

    def _write(self) -> None:
        ticks = [(jobs, _encode(tick)) for jobs, tick in self._ticks]
        self._ticks.clear()
        self._jobs, self._pairs = 0, min(PAIRS_MAX, self._pairs + PAIRS_MAX)
        try:
            self._store.log_decisions(ticks, kept=self._kept)
        except redis.ResponseError as exc:  # out of memory, say: dispatching does not depend on it
            log.debug("what was decided is not written down: %s", exc)

    def _decisions(self, snapshot: Snapshot, decided: Plan, applied: Applied) -> list[Decision]:
        if not decided.assignments:
            return []
        names = {worker.epoch: worker.name for worker in snapshot.workers}
        decisions: list[Decision] = []
        given: list[Given] = []
        frames, lane = iter(applied.frames), ""
        for assign, count in zip(decided.assignments, applied.assigned, strict=True):
            if assign.lane != lane:
                lane, given = assign.lane, []
                strategy = self._policy.strategy_of(parse_lane(lane).model).name
                decisions.append(Decision(snapshot.now_ms, lane, given, next(frames).decode(), strategy))
            if count:
                given.append(Given(names.get(assign.epoch, assign.epoch), assign.epoch, count, round(assign.score, 3)))
        return self._with_rankings([decision for decision in decisions if decision.given], snapshot)

    def _with_rankings(self, decisions: list[Decision], snapshot: Snapshot) -> list[Decision]:
        """Add the rankings while there is time for it: at full speed most decisions are alike."""
        workers = len(snapshot.workers)
        if self._pairs <= 0 or workers > RANKED_WORKERS_MAX:
            return decisions
        lanes = {lane.name: lane for lane in snapshot.lanes}
        return [
            self._with_ranking(decision, lanes.get(decision.lane), snapshot) if self._pairs > 0 else decision for decision in decisions
        ]

    def _with_ranking(self, decision: Decision, lane: LaneView | None, snapshot: Snapshot) -> Decision:
        if lane is None:
            return decision
        self._pairs -= len(snapshot.workers)
        best = [
            Ranked(candidate.worker, candidate.score, candidate.terms, bool(candidate.refused))
            for candidate in candidates(lane, snapshot, self._policy)[:RANKED]
            if candidate.score is not None
        ]
        return msgspec.structs.replace(decision, ranking=best, refused=refusals(lane, snapshot.workers, self._policy.filters))


def _admitted(batches: Sequence[AdmitBatch], applied: Applied) -> list[tuple[int, list[str]]]:
    return [
        (first, [decision.task_id or "" for decision in batch.decisions[:count]])
        for batch, count, first in zip(batches, applied.admitted, applied.first_jobs, strict=True)
        if count
    ]
