"""Keeps a worker that was frozen from beginning jobs when it thaws: they may be other workers' by now.

A job that the main process has taken and handed to the pool has passed every check of Redis. If the worker freezes just
then, for longer than a lease lives, its pool would begin the job on thawing, some milliseconds before the next beat
learns that this life is over.
"""

from __future__ import annotations

import logging
import mmap
from typing import Any, Final

from dispatcher.clock import Clock

log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 0.02
"""How often a waiting process looks: it may begin its job this much late."""


class Lifeline:
    """When the last answered beat was sent, in memory that the worker shares with its pool. Made before the pool is.

    The monotonic clock is the machine's, one for all its processes. Redis dates a beat later than this does, so that
    whoever reaps the worker does so after its pool has begun to wait.
    """

    def __init__(self, clock: Clock, *, lease_ttl_s: float) -> None:
        self._clock = clock
        self._ttl_ms = round(lease_ttl_s * 1000)
        self._sent_ms = memoryview(mmap.mmap(-1, 8)).cast("q")

    def heard(self, sent_ms: int) -> None:
        """A beat that was sent then was answered, and not with "dead"."""
        self._sent_ms[0] = sent_ms

    def release(self) -> None:
        """This life is over in order: nothing waits any more."""
        self._sent_ms[0] = 0

    def wait_until_heard(self, **_: Any) -> None:
        """Return at once if a beat was answered lately, else as soon as one is. A worker that was declared dead is
        killed while it waits.

        Receives ``task_prerun``, in the process or thread that is about to run a task.
        """
        if not self.is_silent():
            return
        log.warning("a job is not begun before Redis answers: no beat was answered for as long as leases live")
        while self.is_silent():
            self._clock.sleep(LOOK_AGAIN_S)

    def is_silent(self) -> bool:
        """True if no beat was answered for as long as leases live."""
        sent_ms = self._sent_ms[0]
        return sent_ms != 0 and self._clock.monotonic_ms() - sent_ms >= self._ttl_ms
