"""Windows: enough leases to keep a worker busy until its next refill, and no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.choosing.window import Windows


def test_a_worker_whose_rate_is_unknown_has_its_concurrency_and_a_little() -> None:
    """Late binding: the first window is the concurrency plus `extra`."""
    windows = Windows(extra=2, hide_ms=25)

    assert windows.window("w1", concurrency=4, done=0, now_ms=1_000) == 6


def test_a_worker_first_seen_with_jobs_done_has_no_rate_yet() -> None:
    """A leader that takes over knows totals but not since when; it must not divide by its own age."""
    windows = Windows(extra=2, hide_ms=25)

    assert windows.window("w1", concurrency=4, done=1_000_000, now_ms=1_000) == 6
    assert windows.window("w1", concurrency=4, done=1_000_000, now_ms=1_001) == 6


def test_a_fast_worker_gets_what_it_ends_before_the_next_refill() -> None:
    """400 jobs a second and 25 ms to hide: ten more than its concurrency."""
    windows = Windows(extra=2, hide_ms=25)
    windows.window("w1", concurrency=4, done=0, now_ms=0)

    assert windows.window("w1", concurrency=4, done=400, now_ms=1_000) == 14


def test_long_ticks_are_hidden_too() -> None:
    """Where the leader's own ticks are longer than the time to hide, two of them count."""
    windows = Windows(extra=2, hide_ms=25)
    windows.window("w1", concurrency=4, done=0, now_ms=0)
    before = windows.window("w1", concurrency=4, done=400, now_ms=1_000)
    for _ in range(50):
        windows.ticked(100)

    assert windows.window("w1", concurrency=4, done=400, now_ms=1_000) > 2 * before


def test_a_pause_between_two_bursts_does_not_close_the_window() -> None:
    """A rate falls by at most half from one change to the next."""
    windows = Windows(extra=0, hide_ms=100)
    windows.window("w1", concurrency=1, done=0, now_ms=0)
    fast = windows.window("w1", concurrency=1, done=1_000, now_ms=1_000)
    after = windows.window("w1", concurrency=1, done=1_001, now_ms=3_000)

    assert fast == 101
    assert after == 51


def test_an_idle_worker_forgets_its_rate() -> None:
    """In the end the window is as small as at the beginning: jobs wait in lanes, where they can go anywhere."""
    windows = Windows(extra=2, hide_ms=25)
    windows.window("w1", concurrency=4, done=0, now_ms=0)
    windows.window("w1", concurrency=4, done=4_000, now_ms=1_000)
    sizes = [windows.window("w1", concurrency=4, done=4_000, now_ms=1_000 + 6_000 * i) for i in range(1, 20)]

    assert sizes[-1] == 6
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_known_of_a_worker_goes_with_it() -> None:
    """Epochs never come back, so memory must not grow with them."""
    windows = Windows(extra=2, hide_ms=25)
    for epoch in ("w1", "w2"):
        windows.window(epoch, concurrency=1, done=0, now_ms=0)
    windows.window("w1", concurrency=1, done=1_000, now_ms=1_000)
    windows.forget({"w2"})

    assert windows.window("w1", concurrency=1, done=1_000, now_ms=1_001) == 3


@given(
    st.integers(1, 64),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(-10, 6_000), st.integers(-5, 10_000)), max_size=30),
)
def test_a_window_never_starves_a_worker(concurrency: int, extra: int, beats: list[tuple[int, int]]) -> None:
    """Whatever the clock and the totals do (Redis' clock may step back), it holds a job for each slot and `extra` beside."""
    windows = Windows(extra=extra, hide_ms=25)
    now_ms, done = 1_000_000, 0
    for later_ms, more in beats:
        now_ms, done = now_ms + later_ms, max(0, done + more)
        assert windows.window("w", concurrency=concurrency, done=done, now_ms=now_ms) >= concurrency + extra
