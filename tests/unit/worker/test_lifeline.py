"""When a worker's pool begins nothing."""

from __future__ import annotations

import os

from dispatcher.worker.life.lifeline import Lifeline


class Clock:
    """Moved by hand, and by sleeping; ``on_sleep`` may do something meanwhile."""

    def __init__(self) -> None:
        self.now_ms = 10_000
        self.slept = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self.slept += 1
        self.on_sleep()

    def on_sleep(self) -> None:
        """Nothing."""


def test_a_pool_waits_from_when_its_leases_may_be_over_until_it_is_heard() -> None:
    """Counted from when the last answered beat was sent."""
    clock = Clock()
    lifeline = Lifeline(clock, lease_ttl_s=5)
    lifeline.wait_until_heard()  # before its life has begun it has no lease
    lifeline.heard(10_000)
    clock.now_ms = 14_999
    lifeline.wait_until_heard()
    assert clock.slept == 0
    clock.now_ms = 15_000
    clock.on_sleep = lambda: lifeline.heard(15_010) if clock.slept == 3 else None  # type: ignore[method-assign]
    lifeline.wait_until_heard()
    assert clock.slept == 3


def test_after_an_end_in_order_nothing_waits() -> None:
    """Tasks that run in this process afterwards are not this worker's."""
    clock = Clock()
    lifeline = Lifeline(clock, lease_ttl_s=5)
    lifeline.heard(10_000)
    lifeline.release()
    clock.now_ms = 99_000
    lifeline.wait_until_heard()
    assert clock.slept == 0


def test_a_forked_process_sees_what_its_parent_hears() -> None:
    """And nothing needs to be sent to it."""
    clock = Clock()
    lifeline = Lifeline(clock, lease_ttl_s=5)
    lifeline.heard(1)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.read(read, 1)
        os._exit(0 if not lifeline.is_silent() else 1)
    lifeline.heard(9_000)
    os.write(write, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)
    os.close(write)
