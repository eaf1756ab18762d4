"""``plan`` where models must be loaded: as few loads as waiting is worth."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec import structs

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.plan_builder import PATIENCE_LOADS
from dispatcher.core.choosing.policy import HoldRule, Policy
from dispatcher.core.choosing.strategies import strategy
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

NOW_MS = 1_000_000
LOAD_MS = 10_000
POLICY = Policy(strategy("earliest_completion"), standard_filters(stall_ms=STALL_MS), hold=HoldRule(1.5, 30_000))


def worker(epoch: str, *resident: str, **facts: Any) -> WorkerView:
    """One slot, all models served, room for one job."""
    facts = {"window": 1, "models": frozenset("abc"), "resident": frozenset(resident), "models_max": 1} | facts
    return worker_view(epoch, **facts)


def lane(model: str, depth: int = 1, *, waits_ms: int = 0, **facts: Any) -> LaneView:
    return lane_view(model=model, depth=depth, admitted_ms=NOW_MS - waits_ms, **facts)


def planned(lanes: list[LaneView], workers: list[WorkerView]) -> Plan:
    snapshot = Snapshot(NOW_MS, True, frozenset(), tuple(lanes), tuple(workers), load_ms=dict.fromkeys("abc", LOAD_MS))
    return plan(snapshot, PolicyState(), POLICY, rng=Random(1))


def given(decided: Plan) -> dict[tuple[str, str], int]:
    """(model, worker) → jobs."""
    return {(assignment.lane.split("/")[2], assignment.epoch): assignment.count for assignment in decided.assignments}


@pytest.mark.parametrize("others", [2, 99])
def test_a_burst_for_a_model_that_nobody_has_loads_it_once(others: int) -> None:
    """The jobs behind the first one wait for that load, as long as another would not be over sooner; in small fleets and large."""
    workers = [worker(f"w{number}", window=4) for number in range(others + 1)]
    found = given(planned([lane("a", 4)], workers))

    assert list(found.values()) == [4]


@pytest.mark.parametrize("others", [1, 99])
def test_a_long_queue_is_worth_a_second_load(others: int) -> None:
    """Once the wait for the first is longer than two: a job could share that one."""
    workers = [worker(f"w{number}", window=100) for number in range(others + 1)]
    assert list(given(planned([lane("a", 10)], workers)).values()) == [10]
    shares = given(planned([lane("a", 30)], workers)).values()
    assert sum(shares) == 30
    assert len(shares) >= 2
    assert min(shares) >= 9


def test_a_model_on_its_way_is_waited_for() -> None:
    """By jobs that come later, too: until waiting for it would take longer than two loads elsewhere."""
    loading = {"loading": frozenset("a"), "leases": 1, "window": 9}
    for owed_ms, gets_it in ((19_000, "w1"), (21_000, "w2")):
        workers = [worker("w1", "a", leased_cost_ms=owed_ms, **loading), worker("w2")]
        assert given(planned([lane("a")], workers)) == {("a", gets_it): 1}


def test_a_free_worker_goes_on_with_the_model_it_has() -> None:
    """Though a job of another model has waited longer: all workers would do nothing but load while there is a queue."""
    assert given(planned([lane("b", waits_ms=60_000), lane("a", 9)], [worker("w1", "a")])) == {("a", "w1"): 1}


def test_a_model_is_loaded_once_its_jobs_have_waited_for_so_many_loads_longer() -> None:
    """No model waits for ever, nor one of whose jobs a deadline is near."""
    long_ms = PATIENCE_LOADS * LOAD_MS
    for waits_ms, model in ((long_ms - 1, "a"), (long_ms, "b")):
        assert given(planned([lane("b", waits_ms=waits_ms), lane("a", 9)], [worker("w1", "a")])) == {(model, "w1"): 1}
    urgent = structs.replace(lane("b", waits_ms=1_000), deadline_ms=NOW_MS + 500)
    assert given(planned([urgent, lane("a", 9)], [worker("w1", "a")])) == {("b", "w1"): 1}


def test_a_worker_with_nothing_else_to_do_loads() -> None:
    """Whose model's jobs are few comes after them, and in the same plan; what waits for a full worker is told."""
    decided = planned([lane("b", waits_ms=60_000), lane("a")], [worker("w1", "a", window=2)])
    assert given(decided) == {("a", "w1"): 1, ("b", "w1"): 1}
    assert decided.holds == ()
    decided = planned([lane("b", waits_ms=60_000), lane("a", 2)], [worker("w1", "a", window=2)])
    assert given(decided) == {("a", "w1"): 2}
    assert [(hold.lane.split("/")[2], hold.reason, hold.jobs) for hold in decided.holds] == [("b", "full", 1)]


def test_a_higher_priority_does_not_wait_for_a_lower_one() -> None:
    """Patience is for jobs of one priority."""
    found = given(planned([lane("b", waits_ms=1, step=0), lane("a", 9, waits_ms=9, step=3)], [worker("w1", "a")]))

    assert found == {("b", "w1"): 1}


def test_an_empty_place_is_taken_before_a_model_is_closed() -> None:
    """Of two workers that would have to load, the one with room in memory, though it has something to do first."""
    full = worker("w1", "a", "b", models_max=2, window=4)
    roomy = worker("w2", "a", models_max=2, window=4, leases=1, leased_cost_ms=5_000)

    assert given(planned([lane("c")], [full, roomy])) == {("c", "w2"): 1}
