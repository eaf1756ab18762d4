"""Finds workers that fail jobs which others do well: compares them by kind of job, over the same seconds. What
everybody fails is nobody's fault.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Final

from dispatcher.core.facts.evidence import Delta, WorkerReport

JobKind = tuple[str, str]
"""Task and model."""

READS: Final = 10
"""Shares of failures are counted over so many reads of what workers report."""

LAG: Final = 2
"""Reports lag by up to 2 reads, so only peers' reports at least 2 reads after a worker's first failure are sure to
describe later jobs.
"""

NATS: Final = 14.0
"""A worker fails too much if, at its peers' shares, so many failures are less likely than e to the minus this: one in a
million.
"""

SHARE_MARGIN: Final = 0.2
"""… and if its share of failures is so far above its peers': less is not worth an ejection."""

PEERS_MIN: Final = 5
"""If peers ended fewer jobs of the same kinds, there is nothing to compare with."""


@dataclass(slots=True)
class _Read:
    """What workers reported at once."""

    fleet: dict[JobKind, list[int]] = field(default_factory=dict)
    """Kind → [ended, failed], by all workers together."""

    workers: dict[str, dict[JobKind, list[int]]] = field(default_factory=dict)
    """Epoch → the same, by one worker."""

    def add(self, delta: Delta) -> None:
        kind = (delta.task, delta.model)
        for counts in (self.fleet.setdefault(kind, [0, 0]), self.workers.setdefault(delta.epoch, {}).setdefault(kind, [0, 0])):
            counts[0] += delta.done + delta.failed
            counts[1] += delta.failed


@dataclass(slots=True)
class Failing:
    """Finds workers that fail too much, from report to report."""

    in_row: int
    """So many failures without a success in between make a worker worth a look; 0: never."""

    suspects: set[str] = field(default_factory=set)
    """Epochs of workers with that many failures in a row, of kinds that nobody else ended meanwhile."""
    _reads: deque[_Read] = field(default_factory=lambda: deque(maxlen=READS + LAG))
    _runs: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (length, reads since it began)

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport]) -> dict[str, str]:
        """Epoch → what is wrong with the worker, for each worker that fails what others do well."""
        read = _Read()
        for delta in deltas:
            if delta.done or delta.failed:
                read.add(delta)
        self._reads.append(read)
        self._count_runs(reports)
        self.suspects = set()
        if not self.in_row:
            return {}
        symptoms = {}
        for epoch in {epoch for read in self._reads for epoch in read.workers}:
            if symptom := self._in_a_row(epoch) or self._too_often(epoch):
                symptoms[epoch] = symptom
        return symptoms

    def forget(self, epoch: str) -> None:
        """Begin anew with this worker: what it did before its ejection says nothing of after."""
        for read in self._reads:
            read.workers.pop(epoch, None)
        self._runs.pop(epoch, None)

    def _count_runs(self, reports: Sequence[WorkerReport]) -> None:
        runs = {}
        for report in reports:
            length = report.totals.failures_in_row
            if length:
                before, reads = self._runs.get(report.epoch, (length + 1, 0))
                runs[report.epoch] = (length, reads + 1 if length >= before else 0)
        self._runs = runs

    def _in_a_row(self, epoch: str) -> str:
        length, ago = self._runs.get(epoch, (0, 0))
        if length < self.in_row or ago < LAG:
            return ""
        since = min(len(self._reads), ago + 1)
        failed = {kind: [counts[1], counts[1]] for kind, counts in self._own(epoch, since).items() if counts[1]}
        peers = self._peers(epoch, since - LAG)
        if sum(peers.get(kind, (0, 0))[0] for kind in failed) < PEERS_MIN:
            self.suspects.add(epoch)
            return ""
        return _compare(failed, peers, self.in_row)

    def _too_often(self, epoch: str) -> str:
        own = self._own(epoch, READS)
        if not any(failed for _, failed in own.values()):
            return ""
        peers = self._peers(epoch, READS)
        kinds = [own, *({kind: counts} for kind, counts in own.items())] if len(own) > 1 else [own]
        return next(filter(None, (_compare(counts, peers, 2 * self.in_row) for counts in kinds)), "")

    def _own(self, epoch: str, reads: int) -> dict[JobKind, list[int]]:
        return _sum(read.workers.get(epoch, {}) for read in list(self._reads)[-reads:])

    def _peers(self, epoch: str, reads: int) -> dict[JobKind, list[int]]:
        total = _sum(read.fleet for read in list(self._reads)[-reads:])
        for kind, (ended, failed) in self._own(epoch, reads).items():
            total[kind][0] -= ended
            total[kind][1] -= failed
        return total


def _sum(parts: Iterable[Mapping[JobKind, Sequence[int]]]) -> dict[JobKind, list[int]]:
    total: dict[JobKind, list[int]] = {}
    for part in parts:
        for kind, (ended, failed) in part.items():
            counts = total.setdefault(kind, [0, 0])
            counts[0] += ended
            counts[1] += failed
    return total


def _compare(own: Mapping[JobKind, Sequence[int]], peers: Mapping[JobKind, Sequence[int]], failed_min: int) -> str:
    """What is wrong, if so many failures are hardly chance: Chernoff's bound, on jobs that fail as often as the same
    kinds do elsewhere.

    The peers' share counts one failure that did not happen (Laplace), so that few jobs elsewhere prove little.
    """
    ended = failed = peers_ended = peers_failed = 0
    expected = 0.0
    for kind, (n, f) in own.items():
        there, failed_there = peers.get(kind, (0, 0))
        if there >= PEERS_MIN:
            ended, failed, expected = ended + n, failed + f, expected + n * (failed_there + 1) / (there + 2)
            peers_ended, peers_failed = peers_ended + there, peers_failed + failed_there
    if failed < failed_min or failed / ended < expected / ended + SHARE_MARGIN:
        return ""
    share, usual = failed / ended, expected / ended
    nats = share * log(share / usual) + ((1 - share) * log((1 - share) / (1 - usual)) if share < 1 else 0.0)
    if ended * nats < NATS:
        return ""
    return f"{failed} of its last {ended} jobs failed, of others' {peers_failed} of {peers_ended}"
