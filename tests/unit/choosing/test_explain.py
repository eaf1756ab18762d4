"""What is told of a job's candidates is what the plan does with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.choosing.explain import candidates, in_words, refusals
from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.place.wishes import penalty_ms, read_distances
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy, Stickiness
from dispatcher.core.choosing.strategies import STRATEGIES, strategy
from dispatcher.core.facts.snapshot import Snapshot, WorkerView
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

DISTANCES = read_distances(["eu:us=90"], prefer_cost_s=1.0)
LOAD_MS: Mapping[str, int] = {"chat": 3_000}


def policy(name: str = "earliest_completion", **rules: Any) -> Policy:
    return Policy(
        strategy(name), standard_filters(stall_ms=STALL_MS), penalty_ms=lambda lane, one: penalty_ms(lane, one, DISTANCES), **rules
    )


workers = st.builds(
    worker_view,
    concurrency=st.integers(1, 4),
    weight=st.sampled_from([0.5, 1.0, 4.0]),
    models=st.sampled_from([frozenset(), frozenset({"chat"})]),
    resident=st.sampled_from([None, frozenset(), frozenset({"chat"})]),
    labels=st.sampled_from([{}, {"region": "eu"}, {"region": "us"}]),
    leases=st.integers(0, 6),
    leased_cost_ms=st.integers(0, 9_000),
    window=st.integers(0, 6),
    draining=st.sampled_from(["", "", "exit"]),
    ejected=st.sampled_from(["", "", "fails"]),
)


@given(st.lists(workers, max_size=6), st.sampled_from([name for name, one in STRATEGIES.items() if not one.draws and not one.turns]))
def test_the_first_candidate_is_whom_the_plan_chooses(fleet: list[WorkerView], name: str) -> None:
    """Or one with the same score; where nobody is chosen, every candidate says why, and the hold's reason follows from that."""
    views = tuple(worker_view(f"e{i}", **_facts(one)) for i, one in enumerate(fleet))
    lane = lane_view(model="chat", prefers=(("region", ("eu",)),))
    snapshot = Snapshot(0, True, frozenset(), (lane,), views, load_ms=LOAD_MS)

    told = candidates(lane, snapshot, policy(name))
    decided = plan(snapshot, PolicyState(), policy(name), rng=Random(1))

    assert {one.epoch for one in told} == {one.epoch for one in views}
    if decided.assignments:
        (assigned,) = decided.assignments
        score = {one.epoch: one.score for one in told if not one.refused}[assigned.epoch]
        assert not told[0].refused
        assert score == told[0].score
        assert score is not None
        assert math.isclose(score, assigned.score, rel_tol=1e-6, abs_tol=1e-3)
    else:
        assert all(one.refused for one in told)
        full = any(one.score is not None for one in told)
        assert [hold.reason for hold in decided.holds] == ["full" if full else "unroutable"]
        assert sum(count for count, _ in refusals(lane, views, policy(name).filters).values()) == len(views)


@given(st.lists(workers, min_size=1, max_size=6))
def test_terms_add_up_to_the_score(fleet: list[WorkerView]) -> None:
    """Where the score is a time."""
    views = tuple(worker_view(f"e{i}", **_facts(one)) for i, one in enumerate(fleet))
    lane = lane_view(model="chat", prefers=(("region", ("eu",)), ("disk", ("fast",))))

    for one in candidates(lane, Snapshot(0, True, frozenset(), (lane,), views, load_ms=LOAD_MS), policy()):
        if one.score is not None:
            assert math.isclose(sum(one.terms.values()), one.score, abs_tol=0.01)


def test_the_home_of_a_session_is_told() -> None:
    """By how much it may be worse than the best and still is chosen; it comes first then, as it does in the plan."""
    views = tuple(worker_view(f"e{i}") for i in range(4))
    for slot in range(8):
        lane = lane_view(slot=slot)
        rules = policy(sticky=Stickiness(wait_ms=5_000, hold_max_ms=30_000))
        snapshot = Snapshot(0, True, frozenset(), (lane,), views)

        first, *others = candidates(lane, snapshot, rules)

        assert first.terms["home_ms"] == -5_000
        assert all("home_ms" not in one.terms for one in others)
        assert plan(snapshot, PolicyState(), rules, rng=Random(1)).assignments[0].epoch == first.epoch


def test_reasons_in_words() -> None:
    """The most frequent first; what is in the way, where a filter is named for what must be."""
    refused = {"model": (1, "a@h: does not serve chat"), "not_draining": (3, "b@h: draining")}

    assert in_words("unroutable", refused) == "no worker may have it (3 × draining, 1 × model)"
    assert in_words("unroutable", {}) == "no worker may have it (there is none)"
    assert in_words("some_new_reason", {}) == "some_new_reason"


def _facts(one: WorkerView) -> dict[str, Any]:
    names = ("concurrency", "weight", "models", "resident", "labels", "leases", "leased_cost_ms", "window", "draining", "ejected")
    return {name: getattr(one, name) for name in names}
