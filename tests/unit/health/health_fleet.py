"""A made-up fleet that tells what it did, second by second, for tests of health."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from msgspec import structs

from dispatcher.core.facts.evidence import Delta, Running, WorkerReport, WorkerTotals
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.ejection import Change, Ejected, Health, HealthRule, Panic, Returned
from dispatcher.core.health.probing import Probing
from tests.unit.facts.snapshots import worker_view

TICK_MS = 1_000


@dataclass(slots=True)
class Member:
    """A worker. ``fails``: share of its jobs; ``slower``: how many times longer than usual; ``jobs``: ended each second, about."""

    view: WorkerView
    jobs: float = 10.0
    fails: float = 0.0
    slower: float = 1.0
    usual_ms: float = 200.0
    scatter: float = 0.1
    in_row: int = 0
    running: list[Running] = field(default_factory=list)


class Fleet:
    """``tick`` makes every worker do a second of work that only ejection and chance change."""

    def __init__(self, workers: int, *, seed: int = 0, probing: Probing | None = None, **rule: float) -> None:
        self.rng = Random(seed)
        self.health = Health(HealthRule(**rule), probing or Probing(0, 10_000))  # type: ignore[arg-type]
        self.members = {f"e{i}": Member(worker_view(f"e{i}", concurrency=4)) for i in range(workers)}
        self.now_ms = 1_000_000
        self.changes: list[Change] = []
        self.probes: dict[str, tuple[int, int]] = {}

    def __getitem__(self, index: int) -> Member:
        return self.members[f"e{index}"]

    def tick(self, times: int = 1) -> list[Change]:
        """Seconds of work; what the judge said."""
        said: list[Change] = []
        for _ in range(times):
            self.now_ms += TICK_MS
            deltas, told = [], []
            for epoch, member in self.members.items():
                if delta := self._work(epoch, member):
                    deltas.append(delta)
                probes, failed = self.probes.get(epoch, (0, 0))
                totals = WorkerTotals([], member.in_row, member.running, None, probes, failed)
                told.append(WorkerReport(epoch, member.view.name, member.view.concurrency, 1.0, totals))
            self.health.observe(deltas, told, self.now_ms)
            said += self.health.judge(self.views(), self.now_ms)
        self.changes += said
        return said

    def _work(self, epoch: str, member: Member) -> Delta | None:
        if self.ejected(epoch):
            return None
        done = failed = 0
        busy_ms = 0.0
        count = int(member.jobs / max(1.0, member.slower) + self.rng.random())
        for _ in range(count):
            if self.rng.random() < member.fails:
                failed += 1
                member.in_row += 1
            else:
                done += 1
                member.in_row = 0
                busy_ms += member.usual_ms * member.slower * self.rng.lognormvariate(0, member.scatter)
        return Delta(epoch, member.view.name, "t.one", "default", done, failed, round(busy_ms), 200 * done) if count else None

    def views(self) -> list[WorkerView]:
        found = []
        for epoch, member in self.members.items():
            ejected, warmth = self.health.standing(epoch, self.now_ms)
            found.append(structs.replace(member.view, ejected=ejected, warmth=warmth))
        return found

    def ejected(self, epoch: str) -> str:
        return self.health.standing(epoch, self.now_ms)[0]

    def who(self) -> list[str]:
        """Epochs that get nothing now."""
        return [epoch for epoch in self.members if self.ejected(epoch)]

    def of(self, kind: type[Ejected] | type[Returned] | type[Panic]) -> list[Change]:
        return [change for change in self.changes if isinstance(change, kind)]
