"""Whom to probe, and what came of it. A probe is a small real job through a worker's own queue; see ``service/probe.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.core.facts.evidence import PROBE_TASK, WorkerReport
from dispatcher.core.facts.snapshot import WorkerView

FAILED_MIN: Final = 2
"""So many probes in a row make a worker ill: one may have met a hiccup."""


@dataclass(slots=True)
class _Probed:
    """``asked_ms``: when the last was sent; ``open``: how many had ended then, ``None`` when it is over. ``bad``: in a row."""

    asked_ms: int
    open: int | None = None
    bad: int = 0
    good_ms: int = -1
    done: int = -1

    def clock_is_at(self, now_ms: int) -> None:
        """Date what lies in the future anew: the clock was set back since."""
        self.asked_ms, self.good_ms = min(self.asked_ms, now_ms), min(self.good_ms, now_ms)


@dataclass(slots=True)
class Probing:
    """``interval_ms`` of 0: nobody is probed. Remembers nothing that a successor would miss."""

    interval_ms: int
    timeout_ms: int
    _reports: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (ended, of which failed in a row)
    _probed: dict[str, _Probed] = field(default_factory=dict)

    def can_be(self, worker: WorkerView) -> bool:
        """Whether it is probed at all."""
        return self.interval_ms > 0 and PROBE_TASK in worker.tasks

    def due(self, workers: Sequence[WorkerView], now_ms: int, elapsed_ms: int) -> list[WorkerView]:
        """Whom to probe now: ejected workers and those that have had nothing to do for an interval; spread over the interval."""
        if not self.interval_ms:
            return []
        due = []
        for worker in workers:
            if not self.can_be(worker) or worker.ended is not None or worker.draining:
                continue
            found = self._probed.setdefault(worker.epoch, _Probed(now_ms))
            found.clock_is_at(now_ms)
            if worker.done != found.done and not worker.ejected:
                found.done = worker.done
                if found.open is None:
                    found.asked_ms = now_ms  # its jobs are proof enough
            idle = worker.leases == 0 or worker.ejected
            if found.open is None and idle and now_ms - found.asked_ms >= self.interval_ms:
                due.append((found.asked_ms, worker.epoch, worker))
        for epoch in self._probed.keys() - {worker.epoch for worker in workers}:
            del self._probed[epoch]
        most = 1 + len(workers) * elapsed_ms // self.interval_ms
        return [worker for _, _, worker in sorted(due, key=lambda one: one[:2])[:most]]

    def sent(self, epoch: str, now_ms: int) -> None:
        """One is on its way."""
        found = self._probed[epoch]
        found.asked_ms, found.open = now_ms, self._reports.get(epoch, (0, 0))[0]

    def observe(self, reports: Sequence[WorkerReport], now_ms: int) -> dict[str, str]:
        """Epoch → what is wrong with it, of those that fail probes while another passes them."""
        self._reports = {one.epoch: (one.totals.probes, one.totals.probes_failed_in_row) for one in reports}
        for epoch, found in self._probed.items():
            found.clock_is_at(now_ms)
            ended, failed = self._reports.get(epoch, (0, 0))
            if found.open is not None and ended > found.open:
                found.open = None
                found.bad = failed
                if not failed:
                    found.good_ms = now_ms
            elif found.open is not None and now_ms - found.asked_ms >= self.timeout_ms:
                found.bad += 1
                found.asked_ms, found.open = now_ms, ended
        bad = {epoch: found for epoch, found in self._probed.items() if found.bad >= FAILED_MIN}
        lately_ms = now_ms - 3 * self.interval_ms
        passed = any(not found.bad and found.good_ms > lately_ms for found in self._probed.values())
        return {epoch: f"its last {found.bad} probes failed" for epoch, found in bad.items()} if passed else {}

    def passed_since(self, epoch: str, at_ms: int) -> bool:
        """Whether its last probe was good and ended after that time."""
        found = self._probed.get(epoch)
        return found is not None and not found.bad and found.good_ms > at_ms
