"""Where a job may run, where it would rather run, and what running elsewhere counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.filters import Requires
from dispatcher.core.choosing.place.wishes import Distances, penalty_ms, read_distances
from dispatcher.core.facts.labels import Wanted, wanted
from dispatcher.core.facts.lane import Lane
from dispatcher.errors import Invalid
from dispatcher.settings import Settings
from tests.unit.facts.snapshots import lane_view, worker_view

DISTANCES = read_distances(["eu:us=90", "eu:asia=240.5"], prefer_cost_s=2.0)


def penalty(prefers: Wanted, labels: dict[str, str], distances: Distances = DISTANCES) -> float:
    return penalty_ms(Lane("q", "t", "default", 0, 10, prefers=prefers), worker_view(labels=labels), distances)


@pytest.mark.parametrize(
    ("prefers", "labels", "expected_ms"),
    [
        ({}, {}, 0),
        ({"region": "eu"}, {"region": "eu"}, 0),
        ({"region": "eu"}, {"region": "us"}, 90),
        ({"region": "us"}, {"region": "eu"}, 90),
        ({"region": ["us", "asia"]}, {"region": "eu"}, 90),
        ({"region": "us"}, {"region": "asia"}, 2000),
        ({"region": "eu"}, {}, 2000),
        ({"shard": "7"}, {"shard": "7"}, 0),
        ({"shard": "7"}, {"shard": "8"}, 2000),
        ({"shard": "7", "gpu": ["a100", "h100"]}, {"gpu": "h100"}, 1000),
        ({"region": "eu", "shard": "7"}, {"region": "us", "shard": "8"}, 2090),
        ({"region": "eu", "shard": "7"}, {"region": "us", "shard": "7"}, 90),
        ({"region": "eu", "shard": "7"}, {"shard": "7"}, 1000),
    ],
)
def test_what_running_elsewhere_counts(prefers: dict[str, str | list[str]], labels: dict[str, str], expected_ms: float) -> None:
    """The round trip where it is set, whichever way round; else and for all other wishes a share of prefer_cost_s."""
    assert penalty(wanted(prefers), labels) == expected_ms


wishes = st.dictionaries(
    st.sampled_from(["region", "gpu", "shard"]), st.lists(st.sampled_from(["eu", "us", "asia", "a100"]), min_size=1, max_size=2)
).map(wanted)
labels_of = st.dictionaries(st.sampled_from(["region", "gpu", "shard"]), st.sampled_from(["eu", "us", "asia", "a100"]))


@given(wishes, labels_of)
def test_only_a_worker_with_everything_preferred_costs_nothing(prefers: Wanted, labels: dict[str, str]) -> None:
    """And none costs more than no worker that fits at all, plus the longest way."""
    found = penalty(prefers, labels)

    assert (found == 0) == all(labels.get(name) in values for name, values in prefers)
    assert 0 <= found <= 2000 + 240.5


@given(wishes, labels_of)
def test_what_is_required_is_required(requires: Wanted, labels: dict[str, str]) -> None:
    """The filter lets through exactly the workers with all of it, and names what lacks."""
    lane = lane_view()
    lane = structs.replace(lane, lane=replace(lane.lane, requires=requires))
    refusal = Requires().refuses(lane.lane, worker_view(labels=labels))

    assert (refusal is None) == all(labels.get(name) in values for name, values in requires)
    assert refusal is None or any(name in refusal for name, _ in requires)


@pytest.mark.parametrize(
    "text", ["", "eu", "eu:us", "eu:us=", "eu:us=fast", "eu:us=-1", "eu:us=inf", "eu:us=nan", "eu:eu=0", ":us=1", "a:b:c=1"]
)
def test_a_wrong_distance_is_a_mistake_in_the_settings(text: str) -> None:
    """With the form that is right, and among all the other mistakes."""
    with pytest.raises(Invalid, match="eu:us=90"):
        read_distances([text], prefer_cost_s=1.0)
    assert any("REGION_RTT_MS" in problem for problem in Settings(region_rtt_ms=(text,), sticky="maybe").problems())
    assert any("STICKY is 'maybe'" in problem for problem in Settings(region_rtt_ms=(text,), sticky="maybe").problems())
