"""Reports each outage of Redis once, and says how long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable

from dispatcher.clock import Clock
from dispatcher.events import Event, RedisBack, RedisLost

BACK_AFTER_MS = 2000
"""Redis counts as back once steps have succeeded for so long. A Redis whose memory is full refuses some steps, but none
that write nothing: that is one outage, to be reported once.
"""


class Outage:
    """Emits when Redis is lost and when it is back, by what became of one dispatcher's steps."""

    def __init__(self, clock: Clock, emit: Callable[[Event], None]) -> None:
        self._clock = clock
        self._emit = emit
        self._lost_at_ms: int | None = None
        self._well_since_ms: int | None = None
        self._wait_s = 0.1

    def well(self) -> None:
        """A step succeeded."""
        if self._lost_at_ms is None:
            return
        now_ms = self._clock.monotonic_ms()
        self._well_since_ms = now_ms if self._well_since_ms is None else self._well_since_ms
        if now_ms - self._well_since_ms >= BACK_AFTER_MS:
            self._emit(RedisBack(self._well_since_ms - self._lost_at_ms))
            self._lost_at_ms, self._wait_s = None, 0.1

    def failed(self, error: Exception) -> float:
        """A step was refused, or not answered. How long to wait, in seconds."""
        self._well_since_ms = None
        if self._lost_at_ms is None:
            self._lost_at_ms = self._clock.monotonic_ms()
            self._emit(RedisLost(f"{type(error).__name__}: {error}"))
        self._wait_s = min(1.0, self._wait_s * 2)
        return self._wait_s
