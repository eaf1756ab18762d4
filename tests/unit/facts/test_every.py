"""Time again, and time over, by a clock that may be set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.facts.every import Every, is_over

HOUR_MS = 3_600_000


def test_it_is_due_at_first_and_then_once_in_an_interval() -> None:
    """However often it is asked."""
    every = Every(1_000)

    assert [now_ms for now_ms in range(500, 4_000, 100) if every.due(now_ms)] == [500, 1_500, 2_500, 3_500]


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -1, HOUR_MS])
def test_a_clock_that_is_set_makes_it_due_at_once_and_regular_again(jump_ms: int) -> None:
    """Set back by an hour it does not wait for that hour; set forward it is not made up for."""
    every = Every(1_000)
    assert every.due(HOUR_MS)

    assert [now_ms for now_ms in range(0, 3_000, 250) if every.due(HOUR_MS + jump_ms + now_ms)] == [0, 1_000, 2_000]


def test_an_interval_of_nothing_is_always_due() -> None:
    """A test that wants every step to count says so with it."""
    every = Every(0)

    assert all(every.due(7) for _ in range(3))


def test_a_restart_makes_it_due() -> None:
    """Once."""
    every = Every(1_000)
    assert every.due(5)
    every.restart()

    assert every.due(6)
    assert not every.due(7)


@given(st.integers(0, 10), st.lists(st.integers(-20, 20)))
def test_it_is_never_silent_for_longer_than_an_interval(interval_ms: int, steps: list[int]) -> None:
    """Whatever the clock does: of calls that advance by an interval in all, without going back, one is due."""
    every, now_ms, since_ms = Every(interval_ms), 0, 0
    assert every.due(now_ms)
    for step in steps:
        now_ms += step
        since_ms = since_ms + step if step >= 0 else 0
        if every.due(now_ms):
            since_ms = 0
        assert since_ms < max(1, interval_ms)


def test_a_span_that_began_in_the_future_is_over() -> None:
    """How long ago that was nobody knows: the clock was set back since."""
    assert [is_over(100, 10, now_ms) for now_ms in (99, 100, 109, 110, HOUR_MS)] == [True, False, False, True, True]
