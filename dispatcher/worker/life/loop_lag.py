"""How late the consumer's event loop is: a loop that is stuck takes no jobs, though its worker beats."""

from __future__ import annotations

from collections.abc import Callable

from dispatcher.clock import Clock
from dispatcher.worker.life.host import Host


class LoopLag:
    """Asks the loop, once a beat, to call back. Read by the beat thread; the loop answers."""

    def __init__(self, clock: Clock, host: Host, is_busy: Callable[[], bool]) -> None:
        self._clock = clock
        self._host = host
        self._is_busy = is_busy
        """True while the worker has a job; where jobs run in the loop itself, that is why the loop does not answer."""
        self._asked_ms: int | None = None
        """When the loop was asked; ``None`` once it has answered."""
        self._lag_ms = 0
        """How long its last answer took."""

    def read_ms(self) -> int:
        """How long the loop took to answer when last asked; or, while it owes that answer, how long it has taken so
        far.
        """
        if not self._host.has_loop:
            return 0
        now_ms = self._clock.monotonic_ms()
        if self._asked_ms is not None:
            return 0 if self._host.loop_runs_jobs and self._is_busy() else now_ms - self._asked_ms
        self._asked_ms = now_ms
        self._host.call_soon(self._answered)
        return self._lag_ms

    def restart(self) -> None:
        """The loop starts anew: what was asked of the old one may be lost."""
        self._asked_ms = None

    def _answered(self) -> None:
        if self._asked_ms is not None:
            self._lag_ms = self._clock.monotonic_ms() - self._asked_ms
            self._asked_ms = None
