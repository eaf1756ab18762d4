"""Stops a worker that Redis has not answered for almost as long as its leases live: ``on_cut_off = stop``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dispatcher.clock import Clock


class CutOffWatch:
    """Calls ``stop`` once, from a thread of its own, when no beat has been answered for ``lease_ttl_s`` less half of
    ``heartbeat_s``.

    It needs a thread of its own, because the beat thread may wait for Redis for that long. The time counts from when
    the last answered beat was *sent*: Redis dates that beat later, so the worker has stopped before the leader gives
    its jobs to others.
    """

    def __init__(self, clock: Clock, *, lease_ttl_s: float, heartbeat_s: float, stop: Callable[[], None]) -> None:
        self._clock = clock
        self._limit_ms = round((lease_ttl_s - heartbeat_s / 2) * 1000)
        self._stop = stop
        self._answered_ms = clock.monotonic_ms()
        self._over = threading.Event()

    def start(self) -> None:
        """Watch from now on."""
        self._answered_ms = self._clock.monotonic_ms()
        threading.Thread(target=self._run, name="dispatcher-cut-off", daemon=True).start()

    def answered(self, sent_ms: int) -> None:
        """A beat that was sent then was answered."""
        self._answered_ms = sent_ms

    def left_ms(self) -> int:
        """How long until this worker counts as cut off; 0 or less: it is."""
        return self._answered_ms + self._limit_ms - self._clock.monotonic_ms()

    def close(self) -> None:
        """Watch no more."""
        self._over.set()

    def _run(self) -> None:
        while (left_ms := self.left_ms()) > 0:
            if self._over.wait(left_ms / 1000):
                return
        self._stop()
