"""What a job requires of the place it runs in holds whatever happens: the proof for `requires`, over all that a policy can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.order.ordering import ORDERS
from dispatcher.core.choosing.place import loads as arrays
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.labels import Wanted, wanted
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

REGIONS, GPUS, MODELS = ("eu", "us", "asia"), ("a100", "h100"), ("default", "chat@1")

fleets = st.lists(
    st.builds(
        worker_view,
        concurrency=st.integers(1, 4),
        weight=st.sampled_from([0.1, 1.0, 8.0]),
        models=st.sampled_from([frozenset(), frozenset({"chat@1"})]),
        labels=st.fixed_dictionaries({}, optional={"region": st.sampled_from(REGIONS), "gpu": st.sampled_from(GPUS)}),
        leases=st.integers(0, 8),
        leased_cost_ms=st.integers(0, 60_000),
        window=st.integers(0, 10),
        draining=st.sampled_from(["", "", "exit", "keep"]),
        consume_age_ms=st.sampled_from([0, 0, STALL_MS + 1]),
        ended=st.sampled_from([None, None, "silent"]),
        ejected=st.sampled_from(["", "", "fails"]),
        warmth=st.sampled_from([0.1, 1.0]),
        speeds=st.sampled_from([{}, {"default": 5.0, "chat@1": 0.2}]),
        resident=st.sampled_from([None, frozenset(), frozenset({"chat@1"})]),
    ),
    max_size=7,
).map(
    lambda found: [
        structs.replace(one, epoch=f"e{i} {sorted(one.models)} {sorted(one.labels.items())}", name=f"w{i}@h")
        for i, one in enumerate(found)
    ]
)
"""An epoch stands for one life, in which labels and models stay what they are."""

wishes = st.sampled_from([{}, {"region": "eu"}, {"region": ["eu", "us"]}, {"gpu": "h100", "region": "eu"}, {"disk": "nvme"}]).map(wanted)
waiting = st.lists(
    st.builds(
        lane_view,
        model=st.sampled_from(MODELS),
        step=st.sampled_from([0, 9]),
        depth=st.integers(1, 40),
        cost_ms=st.sampled_from([0, 100, 60_000]),
        admitted_ms=st.integers(0, 900_000),
        tenant=st.sampled_from(["default", "acme"]),
        requires=wishes,
        prefers=wishes,
        slot=st.integers(-1, 3),
    ),
    max_size=8,
)

policies = st.builds(
    lambda **knobs: policy_of(Settings(**knobs)),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    order=st.sampled_from(sorted(ORDERS)),
    hold_ratio=st.sampled_from([0.0, 1.5]),
    sticky=st.sampled_from(["off", "prefer", "require"]),
    priority_ageing_s=st.sampled_from([0.0, 1.0]),
    region_rtt_ms=st.sampled_from([(), ("eu:us=90",)]),
    prefer_cost_s=st.sampled_from([0.0, 1000.0]),
)


def has_all(requires: Wanted, labels: Mapping[str, str]) -> bool:
    """Written anew here, so that a mistake in the product is not one in its proof."""
    return all(name in labels and labels[name] in values for name, values in requires)


@given(policies, st.lists(st.tuples(fleets, waiting), min_size=1, max_size=3), st.integers(0, 2**32), st.booleans())
def test_no_job_is_ever_given_to_a_worker_without_what_it_requires(
    policy: Policy, ticks: list[tuple[list[WorkerView], list[LaneView]]], seed: int, as_arrays: bool
) -> None:
    """SAFETY: whatever the fleet, its load, who drains, is ejected or has died, by any policy, from one plan to the next."""
    state, rng = PolicyState(), Random(seed)
    for tick, (fleet, lanes) in enumerate(ticks):
        by_name = {lane.name: lane for lane in lanes}
        by_epoch = {one.epoch: one for one in fleet}
        snapshot = Snapshot(1_000_000 + tick, True, frozenset(), tuple(by_name.values()), tuple(fleet))
        with mock.patch.object(arrays, "SMALL", 0 if as_arrays else arrays.SMALL), mock.patch.multiple(arrays, KEPT_MIN=2, KEPT_MAX=2):
            decided = plan(snapshot, state, policy, rng=rng)
        for one in decided.assignments:
            assert has_all(by_name[one.lane].lane.requires, by_epoch[one.epoch].labels)


def test_a_job_that_nobody_may_run_waits_however_idle_the_others_are() -> None:
    """It fails closed: with the only worker of its region full, draining, ejected or gone it is held, and the others get the rest."""
    eu = worker_view("e0", labels={"region": "eu"})
    us = worker_view("e1", name="us@h", labels={"region": "us"}, window=100)
    lanes = (lane_view(depth=5, requires=wanted({"region": "eu"})), lane_view(depth=5))
    policy = policy_of(Settings())
    for gone in (structs.replace(eu, window=0), structs.replace(eu, draining="exit"), structs.replace(eu, ended="silent"), None):
        fleet = (us,) if gone is None else (gone, us)
        decided = plan(Snapshot(1_000_000, True, frozenset(), lanes, fleet), PolicyState(), policy, rng=Random(1))

        assert Counter({assignment.lane: assignment.count for assignment in decided.assignments}) == {lanes[1].name: 5}
        assert [hold.lane for hold in decided.holds] == [lanes[0].name]
