"""The order of lanes, and holding a job for a faster worker: what each promises, and what neither may break."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.order.ordering import ORDERS, Order, order
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import HoldRule, Policy
from dispatcher.core.choosing.protocols import Load
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.choosing.window import Windows
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.errors import Invalid
from dispatcher.settings import Settings
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

FILTERS = standard_filters(stall_ms=STALL_MS)
RULE = HoldRule(1.5, 30_000)

every_order = pytest.mark.parametrize("one", list(ORDERS.values()), ids=list(ORDERS))


def decide(
    lanes: list[LaneView],
    workers: list[WorkerView],
    *,
    strategy: str = "earliest_completion",
    ordering: str = "shortest",
    hold: HoldRule | None = None,
    now_ms: int = 0,
    jobs_max: int = 500,
) -> Plan:
    snapshot = Snapshot(now_ms, True, frozenset(), tuple(lanes), tuple(workers))
    return plan(
        snapshot, PolicyState(), Policy(STRATEGIES[strategy], FILTERS, ORDERS[ordering], hold=hold), rng=Random(1), jobs_max=jobs_max
    )


def given_by(decided: Plan, key: str) -> Counter[str]:
    return sum((Counter({getattr(assignment, key): assignment.count}) for assignment in decided.assignments), Counter())


# ---- the order


@every_order
def test_its_name_is_its_entry_and_in_the_documents(one: Order) -> None:
    """The name in the settings finds it, and the setting's meaning says it."""
    (knob,) = (field for field in fields(Settings) if field.name == "order")

    assert order(one.name) is one
    assert one.name in knob.metadata["doc"]


def test_an_unknown_order_is_invalid() -> None:
    """With the names that there are."""
    with pytest.raises(Invalid, match="oldest, shortest"):
        order("newest")


@every_order
@given(st.integers(0, 100_000), st.integers(0, 10**9), st.integers(1, 50))
def test_later_jobs_of_a_lane_do_not_rank_before_earlier_ones(one: Order, admitted_ms: int, cost_ms: int, depth: int) -> None:
    """Lanes are lists: what a plan takes comes off the head."""
    view = lane_view(admitted_ms=admitted_ms, cost_ms=cost_ms, depth=depth)
    ranks = [one.rank(view, 100_000, placed) for placed in range(depth + 1)]

    assert all(before <= after for before, after in pairwise(ranks))


def test_shortest_serves_short_jobs_first() -> None:
    """All came at once and one slot is free: the job of a second goes, not the one of a minute."""
    lanes = [lane_view(cost_ms=60_000, depth=9), lane_view(cost_ms=1_000)]
    (one,) = decide(lanes, [worker_view(window=1)]).assignments

    assert one.lane == lanes[1].name


def test_shortest_starves_nobody() -> None:
    """A stream of jobs of a second never ends, and one of 20 s still goes: once it has waited 20 times as long in proportion."""
    long = lane_view(cost_ms=20_000)
    for now_ms in range(0, 200_000, 1_000):
        fresh = lane_view(cost_ms=1_000, depth=3, admitted_ms=now_ms - 2_000)
        (one,) = decide([long, fresh], [worker_view(window=1)], now_ms=now_ms).assignments
        if one.lane == long.name:
            break

    assert now_ms == 41_000


def test_priority_comes_before_size() -> None:
    """Shortest only inside a priority."""
    lanes = [lane_view(cost_ms=60_000, step=0), lane_view(cost_ms=1_000, step=3)]
    (one,) = decide(lanes, [worker_view(window=1)]).assignments

    assert one.lane == lanes[0].name


# ---- holds


STRONG = worker_view("strong", weight=4.0, window=1, leases=1, leased_cost_ms=2_000)
WEAK = worker_view("weak", weight=0.5, window=1)


@every_order
def test_a_heavy_job_waits_for_a_strong_worker(one: Order) -> None:
    """In 3 s the strong one, now full, would have done it; the idle weak one would take 20. The plan says so."""
    decided = decide([lane_view(cost_ms=10_000)], [STRONG, WEAK], ordering=one.name, hold=RULE)

    assert decided.assignments == ()
    (hold,) = decided.holds
    assert (hold.reason, hold.jobs, hold.waits_for) == ("sooner_elsewhere", 1, {"strong": 1})


def test_a_light_job_does_not_wait() -> None:
    """0.4 s on the weak one are less than what is before it on the strong one."""
    assert given_by(decide([lane_view(cost_ms=200)], [STRONG, WEAK], hold=RULE), "epoch") == {"weak": 1}


def test_a_hold_is_worth_its_ratio() -> None:
    """At twice as soon a ratio of 1.5 holds, one of 2.5 does not: an idle slot costs the jobs to come."""
    lane, slow = lane_view(cost_ms=10_000), structs.replace(WEAK, weight=10 / 6)

    assert decide([lane], [STRONG, slow], hold=RULE).assignments == ()
    assert given_by(decide([lane], [STRONG, slow], hold=HoldRule(2.5, 30_000)), "epoch") == {"weak": 1}


def test_a_hold_ends() -> None:
    """A job admitted longer ago than hold_max goes to whoever has room."""
    lane = lane_view(cost_ms=10_000)

    assert decide([lane], [STRONG, WEAK], hold=RULE, now_ms=30_000).assignments == ()
    assert given_by(decide([lane], [STRONG, WEAK], hold=RULE, now_ms=30_001), "epoch") == {"weak": 1}


def test_who_waits_counts_for_those_behind() -> None:
    """Not everybody waits for the strong one: some are held, then the line there is as long as the weak one's work, and it gets one."""
    decided = decide([lane_view(cost_ms=10_000, depth=100)], [STRONG, WEAK], hold=RULE)

    assert given_by(decided, "epoch") == {"weak": 1}


def test_nobody_is_held_for_an_unfit_worker() -> None:
    """Draining, dead, or with a window of none: it will not take the job, however strong."""
    for unfit in (structs.replace(STRONG, draining="exit"), structs.replace(STRONG, ended="silent"), structs.replace(STRONG, window=0)):
        assert given_by(decide([lane_view(cost_ms=10_000)], [unfit, WEAK], hold=RULE), "epoch") == {"weak": 1}


def test_no_hold_without_the_rule() -> None:
    """Work-conserving."""
    assert given_by(decide([lane_view(cost_ms=10_000)], [STRONG, WEAK]), "epoch") == {"weak": 1}


workers = st.lists(
    st.builds(
        worker_view,
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        leases=st.integers(0, 4),
        leased_cost_ms=st.integers(0, 20_000),
        window=st.integers(0, 5),
        draining=st.sampled_from(["", "", "", "exit"]),
    ),
    max_size=6,
).map(lambda found: [structs.replace(one, epoch=f"e{i}", name=f"w{i}") for i, one in enumerate(found)])
lanes = st.lists(
    st.builds(
        lane_view,
        step=st.sampled_from([0, 3]),
        depth=st.integers(1, 30),
        cost_ms=st.sampled_from([0, 100, 1_000, 30_000]),
        admitted_ms=st.integers(0, 40_000),
    ),
    max_size=6,
).map(lambda found: list({one.name: one for one in found}.values()))


@given(lanes, workers, st.sampled_from(sorted(STRATEGIES)), st.sampled_from(sorted(ORDERS)), st.booleans(), st.sampled_from([1, 7, 500]))
def test_no_order_and_no_hold_breaks_what_a_plan_promises(
    waiting: list[LaneView], fleet: list[WorkerView], strategy: str, ordering: str, holds: bool, jobs_max: int
) -> None:
    """Never above a window or a depth or to an unfit worker; the same again; a job waits only if it is held or all are full."""
    rule = RULE if holds else None
    decided = decide(waiting, fleet, strategy=strategy, ordering=ordering, hold=rule, now_ms=40_000, jobs_max=jobs_max)
    by_worker, by_lane = given_by(decided, "epoch"), given_by(decided, "lane")

    assert all(by_worker[one.epoch] <= one.room for one in fleet)
    assert all(by_worker[one.epoch] == 0 for one in fleet if one.draining)
    assert all(by_lane[one.name] <= one.depth for one in waiting)
    assert by_lane.total() <= jobs_max
    assert decided == decide(waiting, fleet, strategy=strategy, ordering=ordering, hold=rule, now_ms=40_000, jobs_max=jobs_max)
    if jobs_max == 500:
        room = any(one.room > by_worker[one.epoch] for one in fleet if not one.draining)
        held = {hold.lane for hold in decided.holds if hold.reason == "sooner_elsewhere"}
        assert not room or all(by_lane[one.name] == one.depth or one.name in held for one in waiting)
        assert rule is not None or not held


# ---- the settings


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        (Settings(hold_ratio=0.5), "at least 1"),
        (Settings(model_strategies=("chat=fastest",)), "model=strategy"),
        (Settings(tenant_weights=("acme=0",)), "tenant=weight"),
    ],
)
def test_a_wrong_hold_is_told(given_settings: Settings, said: str) -> None:
    """Before anything runs."""
    (problem,) = given_settings.problems()

    assert said in problem


def test_timed_strategies_are_strategies() -> None:
    """Their scores double with all times, so that ms may be added to them."""
    timed = [one for one in STRATEGIES.values() if one.timed]

    assert {one.name for one in timed} == {"earliest_completion", "least_work"}
    for one in timed:
        once, twice = (one.score(1_000, Load(1, 2_000, 1), speed) for speed in (2.0, 1.0))
        assert twice == pytest.approx(2 * once)


def test_a_window_may_leave_slots_idle() -> None:
    """One job a second and a refill in 25 ms: without `idle` it holds one more, with a share of 0.05 it does not; a rate of 20 a second
    is worth one.
    """
    for idle, rate, window in ((0.0, 1, 2), (0.05, 1, 1), (0.05, 20, 2)):
        windows = Windows(0, 25.0, idle=idle)
        windows.window("e", concurrency=1, done=0, now_ms=0)
        assert windows.window("e", concurrency=1, done=rate, now_ms=1_000) == window
