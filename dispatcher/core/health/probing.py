"""Which workers to probe, and what came of it. A probe is a small real job through a worker's own queue; see
``leader/health/probe.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.core.facts.evidence import PROBE_TASK, WorkerReport
from dispatcher.core.facts.snapshot import WorkerView

FAILED_MIN: Final = 2
"""A worker is ill if so many probes in a row failed: a single one may have met a hiccup."""


@dataclass(slots=True)
class _Probed:
    """What is known of the probes of one worker."""

    asked_ms: int
    """When the last probe was sent."""
    open: int | None = None
    """How many probes had ended when it was sent; ``None`` when it is over."""
    is_overdue: bool = False
    """It has not ended in time, so it may be lost. Another may be sent: Redis refuses it while the worker still holds
    the last one.
    """
    bad: int = 0
    """How many of the last probes failed, without a good one since."""
    good_ms: int = -1
    """When the last good probe was over."""
    done: int = -1
    """How many jobs the worker had ended when it was seen last."""

    def clock_is_at(self, now_ms: int) -> None:
        """Date what lies in the future anew: the clock was set back since."""
        self.asked_ms, self.good_ms = min(self.asked_ms, now_ms), min(self.good_ms, now_ms)


@dataclass(slots=True)
class Probing:
    """Decides which workers to probe. Remembers nothing that a successor would miss."""

    interval_ms: int
    """How often a worker is probed; 0: never."""
    timeout_ms: int
    """A probe that has not ended by then has failed."""
    _reports: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (ended, of which failed in a row)
    _probed: dict[str, _Probed] = field(default_factory=dict)

    def can_be(self, worker: WorkerView) -> bool:
        """True if the worker is ever probed."""
        return self.interval_ms > 0 and PROBE_TASK in worker.tasks

    def due(self, workers: Sequence[WorkerView], now_ms: int, elapsed_ms: int) -> list[WorkerView]:
        """Workers to probe now: ejected ones, and ones that have had nothing to do for an interval; spread over the
        interval.
        """
        if not self.interval_ms:
            return []
        due = []
        for worker in workers:
            if not self.can_be(worker) or worker.ended is not None or worker.draining:
                continue
            probed = self._probed.setdefault(worker.epoch, _Probed(now_ms))
            probed.clock_is_at(now_ms)
            if worker.done != probed.done and not worker.ejected:
                probed.done = worker.done
                if probed.open is None:
                    probed.asked_ms = now_ms  # its jobs are proof enough
            idle = worker.leases == 0 or worker.ejected
            is_time = probed.is_overdue or (probed.open is None and now_ms - probed.asked_ms >= self.interval_ms)
            if is_time and idle:
                due.append((probed.asked_ms, worker.epoch, worker))
        for epoch in self._probed.keys() - {worker.epoch for worker in workers}:
            del self._probed[epoch]
        limit = 1 + len(workers) * elapsed_ms // self.interval_ms
        return [worker for _, _, worker in sorted(due, key=lambda entry: entry[:2])[:limit]]

    def sent(self, epoch: str, now_ms: int) -> None:
        """A probe is on its way to the worker."""
        probed = self._probed[epoch]
        probed.asked_ms, probed.open, probed.is_overdue = now_ms, self._reports.get(epoch, (0, 0))[0], False

    def observe(self, reports: Sequence[WorkerReport], now_ms: int) -> dict[str, str]:
        """Epoch → what is wrong with the worker, for each worker that fails probes while another passes them."""
        self._reports = {report.epoch: (report.totals.probes, report.totals.probes_failed_in_row) for report in reports}
        for epoch, probed in self._probed.items():
            probed.clock_is_at(now_ms)
            ended, failed = self._reports.get(epoch, (0, 0))
            if probed.open is not None and ended > probed.open:
                probed.open, probed.is_overdue = None, False
                probed.bad = failed
                if not failed:
                    probed.good_ms = now_ms
            elif probed.open is not None and now_ms - probed.asked_ms >= self.timeout_ms:
                probed.bad += 1
                probed.asked_ms, probed.open, probed.is_overdue = now_ms, ended, True
        bad = {epoch: probed for epoch, probed in self._probed.items() if probed.bad >= FAILED_MIN}
        lately_ms = now_ms - 3 * self.interval_ms
        passed = any(not probed.bad and probed.good_ms > lately_ms for probed in self._probed.values())
        return {epoch: f"its last {probed.bad} probes failed" for epoch, probed in bad.items()} if passed else {}

    def passed_since(self, epoch: str, at_ms: int) -> bool:
        """True if the worker's last probe was good and ended after ``at_ms``."""
        probed = self._probed.get(epoch)
        return probed is not None and not probed.bad and probed.good_ms > at_ms
