"""Waits between two steps: until a job or a word from Redis wakes the leader, and never shorter than one tick."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event as Signal
from typing import NamedTuple

from dispatcher.clock import Clock
from dispatcher.leader.wake import Waker
from dispatcher.store.leader.admit_batch import IngressList
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import Granted, LookAt, LookWish

WISH_WORKERS_MAX = 64
"""Above this many workers no look is sent along with the sleep: it costs Redis more than the saved round trip, and some
are thrown away.
"""


class Woken(NamedTuple):
    """A job woke the leader, and the look that was sent along has its replies."""

    granted: Granted
    asked_ms: int
    """When the sleep began, on the monotonic clock: the look is not older."""


class Sleep:
    """The sleep of one dispatcher."""

    def __init__(self, store: DispatchStore, waker: Waker | None, clock: Clock, *, tick_interval_ms: float, look_at: LookAt) -> None:
        """``waker`` is ``None`` where nothing wakes it but the time. ``look_at``: how much a look reads."""
        self._store = store
        self._waker = waker
        self._clock = clock
        self._tick_interval_ms = tick_interval_ms
        self._look_at = look_at
        self._wish: LookWish | None = None
        self._woken: Woken | None = None
        self._rested_at_ms = 0

    def until_woken(self, stop: Signal, lists: Sequence[IngressList], wait_s: float, *, workers: int) -> None:
        """Sleep for ``wait_s`` at most; a message on one of ``lists`` ends it. ``workers``: how many a look would read."""
        if self._waker is None:
            stop.wait(wait_s)
        else:
            if workers > WISH_WORKERS_MAX:
                self._wish = None
            elif self._wish is None or self._wish.ingress != tuple(lists):
                self._wish = self._store.wish(lists, **self._look_at)
            asked_ms = self._clock.monotonic_ms()
            granted = self._waker.wait([source.key for source in lists], wait_s, self._wish)
            self._woken = None if granted is None else Woken(granted, asked_ms)
        # Under a stream of small arrivals every look would find one job; a rest makes the next batch larger. After a
        # quiet time the rest is over already.
        if self.rest():
            self._woken = None
        self._rested_at_ms = self._clock.monotonic_ms()

    def rest(self) -> bool:
        """Sleep until the shortest time between two ticks is over. False if it was over already."""
        rest_ms = self._rested_at_ms + self._tick_interval_ms - self._clock.monotonic_ms()
        if rest_ms <= 0:
            return False
        self._clock.sleep(rest_ms / 1000)
        return True

    def woken(self) -> Woken | None:
        """How the last sleep ended, once; ``None`` unless a job woke the leader and nothing has happened since."""
        woken, self._woken = self._woken, None
        return woken

    def close(self) -> None:
        """Give up the connections: a blocking command left open would take words that are meant for another leader."""
        if self._waker is not None:
            self._waker.close()
