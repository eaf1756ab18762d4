"""Redis' clock is set by an hour, back or forward: the leader's loops go on at the next beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dispatcher.core.facts.evidence import PROBE_TASK, Delta, WorkerReport, WorkerTotals
from dispatcher.core.health.ejection import Health, HealthRule
from dispatcher.core.health.probing import Probing
from dispatcher.core.learning.speeds import SAVE_INTERVAL_MS, Speeds
from dispatcher.core.returns.recall import RecallRule
from dispatcher.leader.health.probe import Prober
from dispatcher.leader.health.watch import HealthWatch
from dispatcher.leader.learning import Learning
from dispatcher.leader.returns.deadlines import LateJobs
from dispatcher.leader.returns.recall import Recaller
from dispatcher.leader.returns.unbegun import UnbegunJobs
from tests.unit.facts.snapshots import lane_view, worker_view

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
either_way = pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])


class LearnedStore:
    """One worker that has told nothing yet; counts what is saved."""

    def __init__(self) -> None:
        self.saves = 0

    def totals(self) -> dict[str, bytes]:
        return {"e1": msgspec.json.encode(WorkerTotals([]))}

    def save(self, changed: Mapping[str, bytes]) -> None:
        self.saves += 1


class Learner:
    """Counts the beats that it was shown."""

    def __init__(self) -> None:
        self.beats = 0

    def observe(self, deltas: Sequence[Delta], told: Sequence[WorkerReport], now_ms: int) -> None:
        self.beats += len(told)

    def dump(self) -> bytes:
        return b""

    def load(self, state: bytes) -> None:
        pass


def seconds(step: Callable[[int], Any], first_ms: int, count: int) -> None:
    for second in range(count):
        step(first_ms + 1_000 * second)


@either_way
def test_learning_goes_on(jump_ms: int) -> None:
    """Each beat is read, and each second what was learned is saved."""
    store, learner = LearnedStore(), Learner()
    evidence = Learning(cast("Any", store), {"speeds": learner}, interval_ms=1_000)
    seconds(lambda now_ms: evidence.step(now_ms, [worker_view("e1")]), NOW_MS, 5)
    seconds(lambda now_ms: evidence.step(now_ms, [worker_view("e1")]), NOW_MS + jump_ms, 5)

    assert (learner.beats, store.saves) == (10, 10)


@either_way
def test_workers_are_judged_on_and_probed_on(jump_ms: int) -> None:
    """Once a beat; a clock that was set back asks for no more probes than a beat does."""
    probes: list[str] = []
    store = SimpleNamespace(assign_probe=lambda epoch, **_: probes.append(epoch) is None)
    probing = Probing(10_000, 10_000)
    watch = HealthWatch(Health(HealthRule(), probing), Prober(cast("Any", store), probing), lambda _: None, interval_ms=1_000)
    workers = [worker_view(f"e{i}", tasks=frozenset({PROBE_TASK})) for i in range(20)]
    seconds(lambda now_ms: watch.step(workers, now_ms), NOW_MS, 5)
    seconds(lambda now_ms: watch.step(workers, now_ms), NOW_MS + jump_ms, 1)
    assert len(probes) <= (3 if jump_ms < 0 else len(workers))

    seconds(lambda now_ms: watch.step(workers, now_ms), NOW_MS + jump_ms + 1_000, 18)
    assert set(probes) == {worker.epoch for worker in workers}


@either_way
def test_late_and_crowded_jobs_are_looked_for_on(jump_ms: int) -> None:
    """Among the leases of workers, and behind the heads of lanes."""
    looks: list[str] = []

    def leases(epoch: str) -> list[Any]:
        looks.append("leases")
        return []

    def bury_late(where: Sequence[tuple[str, int]], limit: int) -> list[tuple[int, int]]:
        looks.append("lane")
        return [(0, 0) for _ in where]

    store = cast("Any", SimpleNamespace(leases=leases, bury_late=bury_late))
    lanes = [lane_view(depth=3, deadline_class=10, deadline_ms=NOW_MS + 2 * HOUR_MS)]
    workers = [worker_view("e1", leases=2, taken=1), worker_view("e2")]
    unbegun = UnbegunJobs(store)
    recaller = Recaller(unbegun, RecallRule(1_000, 3), (), lambda _: None, interval_ms=1_000)
    late = LateJobs(store, unbegun, lambda _: None)

    def recall(now_ms: int) -> None:
        unbegun.forget()
        recaller.step(workers, (), now_ms, {})

    seconds(recall, NOW_MS, 5)
    seconds(recall, NOW_MS + jump_ms, 5)
    assert looks == ["leases"] * 10

    looks.clear()
    for now_ms in (NOW_MS, NOW_MS + jump_ms):
        unbegun.forget()
        late.saw(lanes)
        late.step(lanes, workers, now_ms)
    assert looks == ["lane", "leases"] * 2


@either_way
def test_speeds_are_written_down_on(jump_ms: int) -> None:
    """Though nothing new is measured, and only the numbers change."""
    speeds = Speeds(prior_jobs=1.0)

    def learn(now_ms: int, busy_ms: int) -> bytes:
        told = [WorkerReport("e1", "w1", 4, 1.0, WorkerTotals([]))]
        speeds.observe([Delta("e1", "w1", "t.one", "default", 10, 0, busy_ms, 1_000)], told, now_ms)
        return speeds.dump()

    first = learn(NOW_MS, 1_000)
    assert learn(NOW_MS + jump_ms, 2_000) != first
    assert learn(NOW_MS + jump_ms + SAVE_INTERVAL_MS, 500) != first
