"""Says in a worker's log that nobody dispatches to it: it would be ready, and nothing would ever run."""

from __future__ import annotations

import logging
from typing import Final

from dispatcher.clock import Clock

log = logging.getLogger(__name__)

LEADERLESS_MAX_S: Final = 5.0
"""A dispatcher that is started beside its workers, or takes over from another, leads sooner."""


class LeaderWatch:
    """What one worker's beats say of its leader. Asked by the beat thread alone."""

    def __init__(self, clock: Clock, *, cell: str, remedy: str) -> None:
        """``remedy``: what to do where no dispatcher leads."""
        self._clock = clock
        self._cell = cell
        self._remedy = remedy
        self._since_ms: int | None = None
        """When a beat was first answered without a leader; ``None`` while one leads."""
        self._said = False

    def answered(self, *, is_led: bool) -> None:
        """A beat was answered. Says once that no dispatcher leads, after :data:`LEADERLESS_MAX_S`, and once that one
        leads again.
        """
        now_ms = self._clock.monotonic_ms()
        if is_led:
            if self._said:
                log.info("a dispatcher leads this cell now: %s", self._cell)
            self._since_ms, self._said = None, False
        elif self._since_ms is None:
            self._since_ms = now_ms
        elif not self._said and now_ms - self._since_ms >= LEADERLESS_MAX_S * 1000:
            self._said = True
            log.error(
                "no dispatcher leads this cell: %s; no job of cell %s begins here until then", self._remedy, self._cell
            )
