"""Tenants: shares in cost by weight, nobody saves up, and order between priorities, tenants, deadlines and sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.order.caps import Caps
from dispatcher.core.choosing.order.fairness import Accounts
from dispatcher.core.choosing.order.ordering import ORDERS
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.snapshot import LaneView, Snapshot
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

POLICY = Policy(STRATEGIES["earliest_completion"], standard_filters(stall_ms=STALL_MS), ORDERS["shortest"])


def serve(lanes: list[LaneView], state: PolicyState, policy: Policy = POLICY, *, room: int = 1, now_ms: int = 0) -> Counter[str]:
    """Jobs by tenant that one plan with so much room gives out."""
    worker = worker_view(concurrency=room, window=room)
    decided = plan(Snapshot(now_ms, True, frozenset(), tuple(lanes), (worker,)), state, policy, rng=Random(1))
    tenants = {lane.name: lane.lane.tenant for lane in lanes}
    return sum((Counter({tenants[assignment.lane]: assignment.count}) for assignment in decided.assignments), Counter())


@pytest.mark.parametrize("room", [1, 4, 50])
@given(
    weights=st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([1.0, 5.0])),
    costs=st.tuples(st.integers(1, 5_000), st.integers(1, 5_000)),
    depths=st.tuples(st.integers(100, 10_000), st.integers(100, 10_000)),
)
def test_backlogged_tenants_share_by_weight(
    room: int, weights: tuple[float, float], costs: tuple[int, int], depths: tuple[int, int]
) -> None:
    """In cost, not in jobs, however many each has sent: never further apart than the largest job of each for its weight."""
    policy = replace(POLICY, tenant_weights={"a": weights[0], "b": weights[1]})
    state, given_ms = PolicyState(), Counter[str]()
    for now_ms in range(60):
        lanes = [lane_view(tenant=tenant, cost_ms=cost, depth=depth) for tenant, cost, depth in zip("ab", costs, depths, strict=True)]
        for tenant, count in serve(lanes, state, policy, room=room, now_ms=now_ms).items():
            given_ms[tenant] += count * costs["ab".index(tenant)]
        apart = abs(given_ms["a"] / weights[0] - given_ms["b"] / weights[1])
        assert apart <= costs[0] / weights[0] + costs[1] / weights[1] + 1e-6


def test_a_tenant_that_was_away_does_not_save_up() -> None:
    """After an hour alone, the other that comes back gets its half from then on, no more."""
    state = PolicyState()
    for _ in range(100):
        serve([lane_view(tenant="busy", depth=100)], state, room=10)
    both = [lane_view(tenant="busy", depth=100), lane_view(tenant="back", depth=100)]
    found = sum((serve(both, state, room=10) for _ in range(10)), Counter[str]())

    assert abs(found["busy"] - found["back"]) <= 2


def test_tenants_share_only_inside_a_priority() -> None:
    """A tenant that has been given more still goes first with a job of a higher priority."""
    state = PolicyState()
    state.accounts.given = {"a": 1e6, "b": 0.0}
    state.accounts.waited = frozenset("ab")

    assert serve([lane_view(tenant="a", step=0), lane_view(tenant="b", step=3)], state) == {"a": 1}


def test_priority_ages() -> None:
    """A job of the lowest priority that has waited long enough is served like one of the highest, and not before."""
    policy = replace(POLICY, ageing_ms=60_000)
    low = lane_view(tenant="low", step=9, cost_ms=100)
    middle = lane_view(tenant="middle", step=3, cost_ms=100, depth=5)
    for waited_ms, first in ((0, "high"), (119_999, "high"), (120_000, "low")):
        high = lane_view(tenant="high", step=0, cost_ms=100, admitted_ms=waited_ms, depth=5)
        later = structs.replace(middle, admitted_ms=waited_ms)
        state = PolicyState()
        state.accounts.given = {"low": 0.0, "high": 1.0, "middle": 1.0}
        state.accounts.waited = frozenset({"low", "high", "middle"})
        assert serve([high, later, low], state, policy, now_ms=waited_ms) == {first: 1}


def test_the_earliest_deadline_goes_first_once_it_is_urgent() -> None:
    """Inside a tenant; a deadline that is far off holds up nobody."""
    short = lane_view(cost_ms=100, admitted_ms=0, task="t.one")
    for now_ms, first in ((500, short), (60_000, None)):
        soon = lane_view(cost_ms=10_000, deadline_ms=100_000, deadline_class=17)
        later = lane_view(cost_ms=10_000, deadline_ms=110_000, deadline_class=18)
        waiting = [structs.replace(short, admitted_ms=now_ms - 500), later, soon]
        worker = worker_view(window=1)
        decided = plan(Snapshot(now_ms, True, frozenset(), tuple(waiting), (worker,)), PolicyState(), POLICY, rng=Random(1))
        assert [assignment.lane for assignment in decided.assignments] == [(first or soon).name]


def capped(
    lanes: list[LaneView], caps: Caps, leased_ms: dict[str, int] | None = None, *, room: int = 50
) -> tuple[Counter[str], dict[str, str]]:
    """Jobs by lane that one plan gives out, and why the others wait."""
    worker = worker_view(concurrency=room, window=room, models=frozenset({"chat@1", "chat@2"}))
    snapshot = Snapshot(0, True, frozenset(), tuple(lanes), (worker,), leased_ms=leased_ms or {})
    decided = plan(snapshot, PolicyState(), replace(POLICY, caps=caps), rng=Random(1))
    given = sum((Counter({assignment.lane: assignment.count}) for assignment in decided.assignments), Counter[str]())
    return given, {hold.lane: hold.reason for hold in decided.holds}


def test_a_cap_on_a_tenant_leaves_room_to_the_others() -> None:
    """Ten seconds of one tenant's work at once, what is leased already included; the rest waits, and says why."""
    capped_lane, other = lane_view(tenant="a", cost_ms=1_000, depth=40), lane_view(tenant="b", cost_ms=1_000, depth=20)
    given, why = capped([capped_lane, other], Caps(tenants={"a": 10_000}), {capped_lane.name: 4_000})

    assert given == {capped_lane.name: 6, other.name: 20}
    assert why == {capped_lane.name: "tenant_cap"}


def test_a_cap_on_a_model_holds_for_its_versions_together_unless_they_have_their_own() -> None:
    """`chat` caps chat@1 and chat@2 as one; `chat@2` caps that one alone."""
    one, two = (lane_view(model=model, cost_ms=1_000, depth=20) for model in ("chat@1", "chat@2"))
    together, why = capped([one, two], Caps(models={"chat": 8_000}))
    assert together.total() == 8
    assert set(why.values()) == {"model_cap"}
    alone, _ = capped([one, two], Caps(models={"chat": 8_000, "chat@2": 3_000}))
    assert alone == {one.name: 8, two.name: 3}


def test_a_job_larger_than_its_cap_goes_alone() -> None:
    """Or it would wait for ever."""
    lane = lane_view(tenant="a", cost_ms=60_000, depth=3)

    assert capped([lane], Caps(tenants={"a": 10_000}))[0].total() == 1
    assert capped([lane], Caps(tenants={"a": 10_000}), {lane.name: 1})[0].total() == 0


@given(given_ms=st.dictionaries(st.text(max_size=8), st.floats(0, 1e9), min_size=2, max_size=30))
def test_accounts_survive_a_takeover(given_ms: dict[str, float]) -> None:
    """To the ms, with who was waiting: a successor begins its first plan where the last leader ended."""
    accounts, successor = Accounts(dict(given_ms), frozenset(list(given_ms)[::2])), Accounts()
    successor.load(accounts.dump())

    assert successor.given == pytest.approx(given_ms, abs=0.5)
    assert successor.waited == accounts.waited


def test_what_is_kept_of_accounts_is_bounded() -> None:
    """The tenants that were given most, for only they would gain by beginning anew; and nothing where there is nobody to be fair to."""
    accounts = Accounts({f"t{number}": float(number) for number in range(5_000)})
    successor = Accounts()
    successor.load(accounts.dump())

    assert successor.given == {f"t{number}": number for number in range(4_000, 5_000)}
    assert Accounts({"default": 7.0}).dump() == Accounts({"default": 8.0}).dump()
