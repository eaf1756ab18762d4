"""The name of a lane holds all that a lane is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.facts.labels import wanted
from dispatcher.core.facts.lane import Lane, lane_name, parse_lane, size_class
from dispatcher.errors import Invalid

parts = st.text(st.characters(exclude_categories=["Cs"]))
wishes = st.dictionaries(parts.filter(bool), st.lists(parts, min_size=1, max_size=3), max_size=3).map(wanted)
lanes = st.builds(
    Lane, parts, parts, parts, st.sampled_from([0, 3, 6, 9]), st.integers(0, 30), parts, wishes, wishes, st.integers(-1, 255),
    st.integers(0, 40),
)  # fmt: skip


@given(lanes)
def test_a_name_is_read_back(lane: Lane) -> None:
    """Whatever the queue, the task and the model are called, slashes and control characters included."""
    assert parse_lane(lane_name(lane)) == lane


@given(lanes, lanes)
def test_two_lanes_have_two_names(one: Lane, other: Lane) -> None:
    """Jobs of different kinds never share a list."""
    assert (lane_name(one) == lane_name(other)) == (one == other)


@given(lanes)
def test_a_name_is_fit_for_scripts_and_screens(lane: Lane) -> None:
    """It is printable ASCII without spaces or quotes: it stands in JSON that Lua puts together, and in log lines."""
    assert set(lane_name(lane)) <= set(string.ascii_letters + string.digits + "_.-~/%@=|;")


@pytest.mark.parametrize(
    "name",
    ["", "dispatch", "a/b/c/p0", "a/b/c/0/c1", "a/b/c/p0/c", "a/b/c/px/c1", "a/b/c/p0/c1/d", "a/b/c/p0/c1/d=1", "a/b/c/p0/c1/slot=x",
     "a/b/c/p0/c1/requires=x", "a/b/c//"],
)  # fmt: skip
def test_what_is_no_name_is_invalid(name: str) -> None:
    """It says so, and nothing else is raised."""
    with pytest.raises(Invalid, match="not the name of a lane"):
        parse_lane(name)


@given(st.integers(1, 999_999_999), st.integers(1, 999_999_999))
def test_jobs_of_a_size_class_cost_about_the_same(one_ms: int, other_ms: int) -> None:
    """Within a class costs differ by less than a factor of two."""
    if size_class(one_ms) == size_class(other_ms):
        assert max(one_ms, other_ms) < 2 * min(one_ms, other_ms)
    else:
        assert (size_class(one_ms) < size_class(other_ms)) == (one_ms < other_ms)
