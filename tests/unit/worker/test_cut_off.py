"""When a worker that was told to stop where it is cut off does so."""

from __future__ import annotations

import threading

from dispatcher.worker.life.cut_off import CutOffWatch


class HandClock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def monotonic_ms(self) -> int:
        return self.now_ms

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def watch(clock: HandClock) -> tuple[CutOffWatch, threading.Event]:
    stopped = threading.Event()
    return CutOffWatch(clock, lease_ttl_s=5.0, heartbeat_s=1.0, stop=stopped.set), stopped


def test_it_stops_before_its_leases_are_over() -> None:
    """Half a heartbeat before, counted from when the last answered beat was sent, not from its answer."""
    clock = HandClock()
    watched, _ = watch(clock)
    clock.now_ms = 9_000
    watched.answered(8_000)
    assert watched.left_ms() == 3_500
    clock.now_ms = 12_500
    assert watched.left_ms() == 0


def test_a_worker_that_was_frozen_for_longer_stops_when_it_thaws() -> None:
    """Time that it slept through counts: others may run its jobs by now."""
    clock = HandClock()
    watched, stopped = watch(clock)
    clock.now_ms += 60_000
    watched._run()
    assert stopped.is_set()


def test_a_watch_that_was_closed_stops_nobody() -> None:
    """A worker that ends in order may wait for Redis for longer than that."""
    watched, stopped = watch(HandClock())
    watched.close()
    watched._run()
    assert not stopped.is_set()
