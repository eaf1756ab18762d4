"""What Redis' clock dated before it was set back by an hour lies in the future. No rule waits for that hour; nor for one forward."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.order.ordering import ORDERS
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import HoldRule, Policy
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.choosing.window import Windows
from dispatcher.core.facts.every import LONG_MS, waits_since_ms
from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import Lane, lane_name, size_class
from dispatcher.core.facts.snapshot import LaneView, Snapshot
from dispatcher.core.health.ejection import Ejected, Returned
from dispatcher.core.health.probing import Probing
from dispatcher.core.learning.residency import Arrivals
from dispatcher.core.returns.recall import RecallRule
from dispatcher.core.rollout.aliases import POINTS, Guard, Rollout
from dispatcher.core.rollout.canary import Ended, observe
from dispatcher.events import Event, RolloutRolledBack, RolloutStepped
from dispatcher.leader.returns.recall import Recaller
from dispatcher.leader.returns.unbegun import UnbegunJobs
from dispatcher.leader.rollout import Rollouts
from dispatcher.store.frame import parse_entry
from dispatcher.store.leader.look import as_look
from dispatcher.store.leader.rollout_store import Stored
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view
from tests.unit.health.health_fleet import Fleet

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
FILTERS = standard_filters(stall_ms=STALL_MS)
either_way = pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])


# -- health


@either_way
def test_an_ejection_ends_after_its_time_and_others_follow(jump_ms: int) -> None:
    """Counted anew where the clock was set back; its slow start ends too, and who is faulty then is ejected for as long as usual."""
    fleet = Fleet(4, base_ms=30_000, slow_start_ms=10_000)
    fleet.now_ms = NOW_MS
    fleet.tick(20)
    fleet[2].fails = 1.0
    fleet.tick(10)
    assert fleet.who() == ["e2"]
    fleet[2].fails = 0.0

    fleet.now_ms += jump_ms
    fleet.tick(32)
    assert [change.ejection.epoch for change in fleet.of(Returned)] == ["e2"]
    fleet.now_ms += jump_ms
    fleet.tick(12)
    assert [fleet.health.standing(epoch, fleet.now_ms) for epoch in fleet.members] == [("", 1.0)] * 4

    fleet[1].fails = 1.0
    fleet.tick(10)
    assert fleet.who() == ["e1"]
    assert cast("Ejected", fleet.of(Ejected)[-1]).span_ms == 30_000


def test_a_clean_record_is_not_an_hour_late() -> None:
    """A node that was well for twice the longest ejection is ejected as if for the first time."""
    fleet = Fleet(4, base_ms=1_000)
    fleet.now_ms = NOW_MS
    fleet.tick(20)
    for _ in range(2):
        fleet[2].fails = 1.0
        fleet.tick(10)
        fleet[2].fails = 0.0
        fleet.now_ms -= HOUR_MS
        fleet.tick(40)

    fleet[2].fails = 1.0
    before = len(fleet.of(Ejected))
    fleet.tick(6)
    assert cast("Ejected", fleet.of(Ejected)[before]).span_ms == 1_000


@either_way
def test_an_ejected_worker_that_is_probed_returns(jump_ms: int) -> None:
    """After a probe that ended since: one that passed before it was ejected proves nothing."""
    probing = Probing(5_000, 10_000)
    fleet = Fleet(3, probing=probing, base_ms=10_000)
    fleet.now_ms = NOW_MS
    for member in fleet.members.values():
        member.view = msgspec.structs.replace(member.view, tasks=frozenset({"t.one", PROBE_TASK}))
    fleet.tick(20)
    fleet[2].fails = 1.0
    fleet.tick(8)
    assert fleet.who() == ["e2"]
    fleet[2].fails = 0.0
    fleet.now_ms += jump_ms
    sent = 0
    for _ in range(30):
        fleet.tick()
        if fleet.who() == ["e2"] and not sent:
            assert not fleet.of(Returned), "no probe has passed"
        for worker in probing.due(fleet.views(), fleet.now_ms, 1_000):
            sent += 1
            probing.sent(worker.epoch, fleet.now_ms)
            ended, _ = fleet.probes.get(worker.epoch, (0, 0))
            fleet.probes[worker.epoch] = (ended + 1, 0)

    assert sent
    assert [change.ejection.epoch for change in fleet.of(Returned)] == ["e2"]


def test_what_was_slow_before_the_step_back_is_no_symptom_after_it() -> None:
    """A worker that ended its last slow job then is not taken for slow until the hour has passed."""
    fleet = Fleet(4)
    fleet.now_ms = NOW_MS
    fleet.tick(30)
    fleet[1].slower = 20.0
    for _ in range(20):
        if fleet.tick() and fleet.who():
            break
    slowing = fleet.health._slowing
    slowing.forget("e1")
    past = next(iter(slowing._pasts["e1"].values()))
    past.learn(past.mean + 3, NOW_MS + HOUR_MS)

    assert past.latest(3, NOW_MS) == []
    assert past.latest(3, NOW_MS + HOUR_MS) != []


# -- choosing


@pytest.mark.parametrize("order", ORDERS)
def test_a_job_from_the_future_waits_longest(order: str) -> None:
    """It was admitted before the clock was set back: jobs that came since, of whatever priority, do not keep it for that hour."""
    since_ms = waits_since_ms(NOW_MS + HOUR_MS - 1, NOW_MS)
    assert since_ms == NOW_MS - LONG_MS
    old, new = lane_view(task="t.one", admitted_ms=since_ms, step=9), lane_view(task="t.two", admitted_ms=NOW_MS - 60_000)
    worker = worker_view(window=1, tasks=frozenset({"t.one", "t.two"}))
    rules = Policy(STRATEGIES["least_work"], FILTERS, order=ORDERS[order], ageing_ms=60_000)
    decided = plan(Snapshot(NOW_MS, True, frozenset(), (new, old), (worker,), None), PolicyState(), rules, rng=Random(0), jobs_max=9)

    assert [one.lane for one in decided.assignments] == [old.name]


def test_a_hold_ends_though_the_job_came_in_the_future() -> None:
    """It is held for a faster worker until ``hold_max_ms``; after the step back nobody knows for how long it was."""
    fast = worker_view("fast", concurrency=1, weight=10.0, leases=1, taken=1, leased_cost_ms=1_000, window=1)
    slow = worker_view("slow", concurrency=1, weight=0.1)
    rules = Policy(STRATEGIES["earliest_completion"], FILTERS, hold=HoldRule(2.0, 5_000))

    def given(admitted_ms: int) -> list[str]:
        lane = lane_view(admitted_ms=waits_since_ms(admitted_ms, NOW_MS))
        decided = plan(Snapshot(NOW_MS, True, frozenset(), (lane,), (fast, slow), None), PolicyState(), rules, rng=Random(0), jobs_max=9)
        return [one.epoch for one in decided.assignments]

    assert given(NOW_MS - 1_000) == []
    assert given(NOW_MS - 6_000) == ["slow"]
    assert given(NOW_MS + HOUR_MS) == ["slow"]


def test_a_look_dates_jobs_from_the_future_anew() -> None:
    """All that plan with it see them so."""
    name = lane_name(Lane("dispatch", "t.one", "default", 0, size_class(1_000))).encode()

    def lane(admitted_ms: int) -> LaneView:
        frame = f"{7:016d}{admitted_ms:013d}{1_000:09d}{0:08d}{0:013d}".encode()
        return as_look([], [NOW_MS, 1, b"", 0, 3, 0, 0, 0, name, 1, frame]).lanes[0]

    assert lane(NOW_MS - 5).admitted_ms == NOW_MS - 5
    assert lane(NOW_MS + HOUR_MS).admitted_ms == NOW_MS - LONG_MS
    assert lane(NOW_MS + HOUR_MS).job == 7


def test_windows_follow_the_rate_on() -> None:
    """A worker that became faster after the step back gets a larger window at its second beat, and an idle one a smaller."""
    windows = Windows(extra=1, hide_ms=25)
    windows.window("w1", concurrency=4, done=0, now_ms=NOW_MS)
    assert windows.window("w1", concurrency=4, done=100, now_ms=NOW_MS + 1_000) == 7
    now_ms = NOW_MS - HOUR_MS
    assert windows.window("w1", concurrency=4, done=150, now_ms=now_ms) == 7

    assert windows.window("w1", concurrency=4, done=1_150, now_ms=now_ms + 1_000) == 29
    for second in range(2, 100):
        size = windows.window("w1", concurrency=4, done=1_150, now_ms=now_ms + second * 1_000)
    assert size == 5


def test_a_model_is_not_on_its_way_for_an_hour() -> None:
    """One that was sent for before the step back is looked for again."""
    arrivals = Arrivals()
    arrivals.assigned("w1", "chat", frozenset(), 12_000, now_ms=NOW_MS)

    assert arrivals.soon("w1", frozenset(), now_ms=NOW_MS + 1_000) == ({"chat"}, 11_000)
    assert arrivals.soon("w1", frozenset(), now_ms=NOW_MS - HOUR_MS) == (frozenset(), 0)


# -- leases


def test_a_lease_numbered_in_the_future_is_recalled_once_it_was_seen_for_long_enough() -> None:
    """Numbers go on from before the step back, so they do not say when a lease was given; not at once, and not in an hour."""
    entry = parse_entry(f"{7:016d}{NOW_MS:013d}{1_000:09d}{0:08d}{0:013d}{lane_name(Lane('dispatch', 't.one', 'default', 0, 10))}")
    ended: list[str] = []

    def giveback(epoch: str, leases: list[Any]) -> int:
        ended.extend(lease.lease_id for lease in leases)
        return len(leases)

    lease_id = f"full.{(NOW_MS + HOUR_MS) * 1_000}"
    store = SimpleNamespace(leases=lambda epoch: [(lease_id, entry, False)], giveback=giveback)
    workers = [worker_view("full", leases=2, taken=1, window=2, leased_cost_ms=9_000), worker_view("free")]
    unbegun = UnbegunJobs(cast("Any", store))
    recaller = Recaller(unbegun, RecallRule(2_000, 3), FILTERS, lambda _: None, interval_ms=1_000)

    def recalled_at(now_ms: int) -> bool:
        unbegun.forget()
        return bool(recaller.step(workers, (), now_ms, {}))

    assert [recalled_at(NOW_MS + second * 1_000) for second in range(4)] == [False, False, True, True]
    assert not recalled_at(NOW_MS - HOUR_MS), "set back again"
    assert ended == [lease_id] * 2


# -- rollouts


class AliasStore:
    """One alias in memory, changed by compare-and-set."""

    def __init__(self, rollout: Rollout) -> None:
        self.stored = Stored(b"1", rollout)

    def read(self) -> dict[str, Stored]:
        return {"chat": self.stored}

    def change(self, alias: str, seen: Stored, wanted: Rollout) -> Stored | None:
        assert seen == self.stored
        self.stored = Stored(seen.raw + b"1", wanted)
        return self.stored


@pytest.mark.parametrize("fails", [False, True])
def test_a_guard_goes_on(fails: bool) -> None:
    """A canary that is well gets its next share one step after the clock was set back, not an hour later; one that fails goes at once."""
    events: list[Event] = []
    guard = Guard("chat@1", "chat@2", (POINTS,), 1, 60.0, 50, 0.0, began_ms=NOW_MS, step_began_ms=NOW_MS)
    store = AliasStore(Rollout(((9_000, "chat@1"), (POINTS, "chat@2")), 1, NOW_MS, guard=guard))
    withdrawn = SimpleNamespace(go_by=lambda *_: None)
    rollouts = Rollouts(cast("Any", store), cast("Any", withdrawn), events.append)
    steps = []
    for second in range(70):
        now_ms = NOW_MS - HOUR_MS + second * 1_000
        rollouts.step(now_ms=now_ms, monotonic_ms=second * 1_000)
        for watch in rollouts._watches.values():
            block = [Ended("chat@1", "w1", 100, 0, 1e4), Ended("chat@2", "w1", 0 if fails else 10, 10 if fails else 0, 1e3)]
            observe(watch, guard, block)
        if events:
            steps.append(second)

    assert isinstance(events[0], RolloutRolledBack if fails else RolloutStepped)
    assert steps[0] <= (10 if fails else 61)
    assert fails or steps[0] >= 60
