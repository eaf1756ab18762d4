"""The only place that reads this machine's clocks or sleeps; everything else takes a :class:`Clock`.

Redis dates what is stored (``TIME`` inside scripts). A process uses its own monotonic clock only to measure how long
something takes, or has been silent.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Measures spans. It knows no dates."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when its owner moves it; for tests."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms

    def sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
