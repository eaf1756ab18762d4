"""What a worker does while Redis refuses what it needs: a key of another type, a user without the right.

Such an answer stays the same until somebody changes something, unlike those of a failover. The worker must keep its
connection's errors apart: it waits for the end of these, and ends by itself where the others do not end.
"""

from __future__ import annotations

from typing import Final

from dispatcher.clock import Clock
from dispatcher.store.redis_client.connection import is_lasting, sentence_of

WAITS_S: Final = (0.5, 1.0, 2.0, 4.0)
"""Waits before the worker tries again; the last one then stays."""

REFUSED_MAX_S: Final = 30.0
"""A worker that was refused for so long ends: its supervisor starts it again, and shows that it fails."""

OVER_S: Final = 10.0
"""A worker that was refused nothing for so long is refused nothing any more."""


class Refusals:
    """The refusals of one worker, in a row. The consumer's thread notes them; any thread may ask for :meth:`now`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sentence = ""
        self._first_ms = self._last_ms = 0
        self._count = 0

    def note(self, error: BaseException) -> float | None:
        """The connection ended with ``error``: how many seconds to wait before the next try, beside those that Celery
        waits. ``None``: end the worker.
        """
        if not is_lasting(error):
            return 0.0
        is_first = not self.now()
        self._sentence, self._last_ms = sentence_of(error), self._clock.monotonic_ms()
        if is_first:
            self._first_ms, self._count = self._last_ms, 0
        self._count += 1
        if self._last_ms - self._first_ms >= REFUSED_MAX_S * 1000:
            return None
        return WAITS_S[min(self._count, len(WAITS_S)) - 1]

    def now(self) -> str:
        """Redis' own sentence, while it refuses; empty otherwise."""
        is_over = self._clock.monotonic_ms() - self._last_ms > OVER_S * 1000
        return "" if is_over else self._sentence
