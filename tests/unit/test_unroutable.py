"""A lane that no worker may serve is told of once it has lasted, once, and once more when it is over."""

from __future__ import annotations

from dispatcher.core.unroutable import UnroutableLanes


def test_it_is_told_once_it_has_lasted() -> None:
    """Not before its time, and not again while it lasts."""
    lanes = UnroutableLanes(1_000)

    assert lanes.look({"a"}, (), 0) == ([], [])
    assert lanes.look({"a"}, (), 1_000) == ([], [])
    assert lanes.look({"a", "b"}, (), 1_001) == (["a"], [])
    assert lanes.look({"a", "b"}, (), 1_500) == ([], [])
    assert lanes.told == {"a"}
    assert lanes.waited_ms("a", 1_500) == 1_500
    assert lanes.look({"a", "b"}, (), 2_002) == (["b"], [])


def test_its_end_is_told_where_its_beginning_was() -> None:
    """A lane that was unroutable for a moment is not worth a word."""
    lanes = UnroutableLanes(1_000)
    lanes.look({"a", "b"}, (), 0)

    assert lanes.look({"a"}, {"b"}, 900) == ([], [])
    assert lanes.look({"a"}, (), 1_100) == (["a"], [])
    assert lanes.look((), {"a"}, 1_200) == ([], ["a"])
    assert lanes.told == frozenset()
    assert lanes.look({"a"}, (), 1_300) == ([], [])
    assert lanes.waited_ms("a", 1_300) == 0


def test_a_lane_that_was_not_looked_at_is_as_it_was() -> None:
    """A plan that ended at its limit says nothing of the lanes it did not reach."""
    lanes = UnroutableLanes(1_000)
    lanes.look({"a"}, (), 0)

    assert lanes.look((), {"other"}, 500) == ([], [])
    assert lanes.look((), (), 1_001) == (["a"], [])
