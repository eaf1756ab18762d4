"""Reads what workers tell of the jobs they ended, lets the policies learn from it, and keeps what they have learned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dispatcher.core.facts.every import Every
from dispatcher.core.facts.evidence import Delta, Learner, Remembered, WorkerReport, WorkerTotals, deltas
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.store.leader.learned_store import PolicyStore

log = logging.getLogger(__name__)

SAVE_INTERVAL_MS = 1_000

_decode = msgspec.json.Decoder(WorkerTotals).decode


class Learning:
    """One leader's. ``learners`` learn in their order; ``kept`` do not learn but are remembered too. Both are named by
    the subject under which their state is kept.

    Holds what each worker told last, and nothing else that a successor would miss.
    """

    def __init__(
        self, store: PolicyStore, learners: Mapping[str, Learner], *, kept: Mapping[str, Remembered] | None = None,
        interval_ms: int, heed: Callable[[Sequence[WorkerReport]], None] | None = None,
    ) -> None:  # fmt: skip
        """``heed`` gets what all living workers report, after the learners."""
        self._store = store
        self._learners = tuple(learners.values())
        self._heed = heed
        self._remembered: dict[str, Remembered] = {**learners, **(kept or {})}
        self._time_to_read = Every(interval_ms)
        self._time_to_save = Every(SAVE_INTERVAL_MS)
        self._saved: dict[str, bytes] = {}
        self._raw: dict[str, bytes] = {}
        self._told: dict[str, WorkerTotals] = {}
        self._succeeds = False

    def restart(self) -> None:
        """The lead was gained: go on from what the last leader had learned. Raises what redis-py raises."""
        self._saved = self._store.load()
        self._raw, self._told = {}, {}
        self._time_to_read.restart()
        self._succeeds = bool(self._saved)
        for subject, remembered in self._remembered.items():
            if (state := self._saved.get(subject)) is not None:
                try:
                    remembered.load(state)
                except msgspec.MsgspecError as exc:
                    log.warning("what was learned of %s cannot be read, learning anew: %s", subject, exc)

    def step(self, now_ms: int, workers: Sequence[WorkerView]) -> None:
        """Look, learn and save where it is time to; most calls do nothing. Raises what redis-py raises, and
        ``NotLeader``.
        """
        if not self._time_to_read.due(now_ms):
            return
        new, reports = self._read({worker.epoch: worker for worker in workers if worker.ended is None})
        for learner in self._learners:
            learner.observe(new, reports, now_ms)
        if self._heed is not None:
            self._heed(reports)
        if self._time_to_save.due(now_ms):
            self._save()

    def _read(self, workers: Mapping[str, WorkerView]) -> tuple[list[Delta], list[WorkerReport]]:
        raw = self._store.totals()
        new: list[Delta] = []
        reports: list[WorkerReport] = []
        for epoch, text in raw.items():
            worker = workers.get(epoch)
            if worker is None:
                continue
            totals = self._told.get(epoch)
            if text != self._raw.get(epoch):
                try:
                    after = _decode(text)
                except msgspec.MsgspecError as exc:
                    log.warning("worker %s tells what cannot be read: %s", worker.name, exc)
                    continue
                # What a successor finds at first was, in the main, learned from by its predecessor.
                if not self._succeeds:
                    new += deltas(epoch, worker.name, totals, after)
                self._told[epoch] = totals = after
            if totals is not None:
                reports.append(WorkerReport(epoch, worker.name, worker.concurrency, worker.weight, totals))
        self._raw = raw
        self._succeeds = False
        for epoch in self._told.keys() - raw.keys():
            del self._told[epoch]
        return new, reports

    def _save(self) -> None:
        changed = {}
        for subject, remembered in self._remembered.items():
            state = remembered.dump()
            if state != self._saved.get(subject):
                changed[subject] = state
        self._store.save(changed)
        self._saved |= changed
