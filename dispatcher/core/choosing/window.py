"""How many leases a worker may hold: late binding. What is not in a window waits in a lane, where it can still go
anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Windows:
    """Windows of all workers, from the jobs that each reports as ended.

    A window is the concurrency plus the jobs that the worker ends before it can be refilled: in ``hide_ms``, or in two
    of the leader's ticks where those are longer. The share ``idle`` of its slots may stay empty until then, which makes
    the window smaller by so many jobs. At least ``extra`` jobs are added to the concurrency.

    Rates are measured between beats on Redis' clock and fall by at most half from one beat to the next, so that a pause
    between two bursts does not close the window.
    """

    extra: int
    hide_ms: float
    tick_ms: float = 0.0
    idle: float = 0.0
    _seen: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # epoch → (at ms, done, jobs per ms)

    def window(self, epoch: str, *, concurrency: int, done: int, now_ms: int) -> int:
        """The window of one worker, given how many jobs it says it has ended."""
        at_ms, before, rate = self._seen.get(epoch, (now_ms, done, 0.0))
        if now_ms < at_ms:  # Redis' clock was set back: the rate stands, and is measured from here on
            self._seen[epoch] = (now_ms, done, rate)
        elif done != before and now_ms > at_ms:
            rate = max((done - before) / (now_ms - at_ms), rate / 2)
            self._seen[epoch] = (now_ms, done, rate)
        elif epoch not in self._seen:
            self._seen[epoch] = (now_ms, done, 0.0)
        elif now_ms - at_ms > 5_000:  # idle: forget the rate
            self._seen[epoch] = (now_ms, done, rate / 2)
        ended = rate * max(self.hide_ms, 2 * self.tick_ms)
        return concurrency + max(self.extra, math.ceil(ended - self.idle * concurrency))

    def ticked(self, took_ms: float) -> None:
        """One more tick under load took that long; the mean of the last few counts."""
        self.tick_ms += (took_ms - self.tick_ms) / 8

    def forget(self, alive: set[str]) -> None:
        """Drop what is known of workers that are gone."""
        for epoch in self._seen.keys() - alive:
            del self._seen[epoch]
