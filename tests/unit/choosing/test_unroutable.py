"""A lane that no worker may serve matters once that has lasted."""

from __future__ import annotations

from dispatcher.core.choosing.unroutable import UnroutableLanes


def test_it_counts_once_it_has_lasted() -> None:
    """Not before its time."""
    lanes = UnroutableLanes(1_000)

    lanes.look({"a"}, (), 0)
    lanes.look({"a"}, (), 1_000)
    assert lanes.lasting == frozenset()
    lanes.look({"a", "b"}, (), 1_001)
    assert lanes.lasting == {"a"}
    assert lanes.waited_ms("a", 1_500) == 1_500
    lanes.look({"a", "b"}, (), 2_002)
    assert lanes.lasting == {"a", "b"}


def test_it_begins_anew() -> None:
    """What was routable for a moment waits its time again."""
    lanes = UnroutableLanes(1_000)
    lanes.look({"a"}, (), 0)
    lanes.look((), {"a"}, 900)
    assert lanes.known == frozenset()

    lanes.look({"a"}, (), 1_000)
    lanes.look({"a"}, (), 2_000)
    assert lanes.lasting == frozenset()
    lanes.look({"a"}, (), 2_001)
    assert lanes.lasting == {"a"}
    lanes.look((), {"a"}, 2_002)
    assert lanes.lasting == frozenset()
    assert lanes.waited_ms("a", 2_002) == 0


def test_a_lane_that_was_not_looked_at_is_as_it_was() -> None:
    """A plan that ended at its limit says nothing of the lanes it did not reach."""
    lanes = UnroutableLanes(1_000)
    lanes.look({"a"}, (), 0)

    lanes.look((), {"other"}, 500)
    assert lanes.lasting == frozenset()
    lanes.look((), (), 1_001)
    assert lanes.lasting == {"a"}
