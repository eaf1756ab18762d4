"""Who fails jobs that others do well: a comparison by kind of job, over the same seconds. What everybody fails is nobody's fault."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Final

from dispatcher.core.facts.evidence import Delta, Told

Kind = tuple[str, str]

TELLINGS: Final = 10
"""A share of failures is counted over so many looks at what workers tell."""

LAG: Final = 2
"""What workers tell in one look may have ended up to two looks apart: only what peers tell so much later than the first failure of a
worker is known to have ended after it."""

NATS: Final = 14.0
"""A worker fails too much when its peers' shares would make so many failures less likely than e to the minus this: one in a million."""

SHARE_MARGIN: Final = 0.2
"""… and when its share of failures is so far above that of its peers: fewer are not worth an ejection."""

PEERS_MIN: Final = 5
"""With fewer jobs of the same kinds ended by others there is nothing to compare with."""


@dataclass(slots=True)
class _Look:
    """What was told at once: kind → [ended, failed], of all and of each."""

    fleet: dict[Kind, list[int]] = field(default_factory=dict)
    workers: dict[str, dict[Kind, list[int]]] = field(default_factory=dict)

    def add(self, one: Delta) -> None:
        kind = (one.task, one.model)
        for counts in (self.fleet.setdefault(kind, [0, 0]), self.workers.setdefault(one.epoch, {}).setdefault(kind, [0, 0])):
            counts[0] += one.done + one.failed
            counts[1] += one.failed


@dataclass(slots=True)
class Failing:
    """``in_row``: failures without a success in between that make a worker worth a look; 0: never."""

    in_row: int
    suspects: set[str] = field(default_factory=set)
    """Those with that many failures in a row, of kinds that nobody else ended meanwhile."""
    _looks: deque[_Look] = field(default_factory=lambda: deque(maxlen=TELLINGS + LAG))
    _runs: dict[str, tuple[int, int]] = field(default_factory=dict)  # epoch → (length, looks since it began)

    def observe(self, deltas: Sequence[Delta], told: Sequence[Told]) -> dict[str, str]:
        """Epoch → what is wrong with it, of those that fail what others do well."""
        look = _Look()
        for one in deltas:
            if one.done or one.failed:
                look.add(one)
        self._looks.append(look)
        self._count_runs(told)
        self.suspects = set()
        if not self.in_row:
            return {}
        found = {}
        for epoch in {epoch for one in self._looks for epoch in one.workers}:
            if symptom := self._in_a_row(epoch) or self._too_often(epoch):
                found[epoch] = symptom
        return found

    def forget(self, epoch: str) -> None:
        """Begin anew with that worker: what it did before its ejection says nothing of after."""
        for look in self._looks:
            look.workers.pop(epoch, None)
        self._runs.pop(epoch, None)

    def _count_runs(self, told: Sequence[Told]) -> None:
        runs = {}
        for one in told:
            length = one.totals.failures_in_row
            if length:
                before, looks = self._runs.get(one.epoch, (length + 1, 0))
                runs[one.epoch] = (length, looks + 1 if length >= before else 0)
        self._runs = runs

    def _in_a_row(self, epoch: str) -> str:
        length, ago = self._runs.get(epoch, (0, 0))
        if length < self.in_row or ago < LAG:
            return ""
        since = min(len(self._looks), ago + 1)
        failed = {kind: [counts[1], counts[1]] for kind, counts in self._own(epoch, since).items() if counts[1]}
        peers = self._peers(epoch, since - LAG)
        if sum(peers.get(kind, (0, 0))[0] for kind in failed) < PEERS_MIN:
            self.suspects.add(epoch)
            return ""
        return _compare(failed, peers, self.in_row)

    def _too_often(self, epoch: str) -> str:
        own = self._own(epoch, TELLINGS)
        if not any(failed for _, failed in own.values()):
            return ""
        peers = self._peers(epoch, TELLINGS)
        kinds = [own, *({kind: counts} for kind, counts in own.items())] if len(own) > 1 else [own]
        return next(filter(None, (_compare(one, peers, 2 * self.in_row) for one in kinds)), "")

    def _own(self, epoch: str, looks: int) -> dict[Kind, list[int]]:
        return _sum(look.workers.get(epoch, {}) for look in list(self._looks)[-looks:])

    def _peers(self, epoch: str, looks: int) -> dict[Kind, list[int]]:
        total = _sum(look.fleet for look in list(self._looks)[-looks:])
        for kind, (ended, failed) in self._own(epoch, looks).items():
            total[kind][0] -= ended
            total[kind][1] -= failed
        return total


def _sum(parts: object) -> dict[Kind, list[int]]:
    total: dict[Kind, list[int]] = {}
    for part in parts:  # type: ignore[attr-defined]
        for kind, (ended, failed) in part.items():
            counts = total.setdefault(kind, [0, 0])
            counts[0] += ended
            counts[1] += failed
    return total


def _compare(own: Mapping[Kind, Sequence[int]], peers: Mapping[Kind, Sequence[int]], failed_min: int) -> str:
    """What is wrong, if so many failures are hardly chance: Chernoff's bound, on jobs that fail as often as the same kinds do elsewhere.

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
