"""Who leads: this process asks for the lead, keeps it while it lives, and gives it up when it stops."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import redis

from dispatcher.clock import Clock
from dispatcher.errors import FormatMismatch
from dispatcher.events import Event, LeadGained, LeadLost, StandsBy
from dispatcher.store.formats import FORMATS, Formats
from dispatcher.store.leader.dispatch_store import DispatchStore, Lead

STANDBY_WAIT_S: Final = 0.1
"""How often a standby asks for the lead: some 30 µs of Redis each time, and so soon it has what a leader gave up."""


class Leadership:
    """One process' lead, or its wait for it. It is renewed three times in its time to live.

    ``begin`` is called when the lead was gained, before anything is done with it: what this process remembers of an
    earlier lead does not hold, for somebody else may have led since. It may raise what redis-py raises, and is called
    again then.
    """

    def __init__(
        self, store: DispatchStore, *, ttl_ms: int, clock: Clock, emit: Callable[[Event], None], begin: Callable[[], None],
        formats: Formats = FORMATS,
    ) -> None:  # fmt: skip
        """``formats``: those that this process reads, for workers that register while it leads."""
        self._store = store
        self._ttl_ms = ttl_ms
        self._clock = clock
        self._emit = emit
        self._begin = begin
        self._formats = formats
        self._leads = False
        self._stands_by = False
        self._renew_at_ms = 0
        self._info = {"host": socket.gethostname(), "pid": os.getpid()}

    def renew(self) -> bool:
        """Ask for the lead when it is time to. True if this process leads. Raises what redis-py raises, and
        :class:`FormatMismatch` where this process must not lead this cell.
        """
        now_ms = self._clock.monotonic_ms()
        if self._leads and now_ms < self._renew_at_ms:
            return True
        lead = self._store.elect(ttl_ms=self._ttl_ms, info=self._info, formats=self._formats)
        self._renew_at_ms = now_ms + self._ttl_ms // 3
        if lead and (lead is Lead.GAINED or not self._leads):
            self._leads = self._stands_by = False  # until all is read that a leader must know
            try:
                self._begin()
            except FormatMismatch:
                self.resign()
                raise
            self._leads = True
            self._emit(LeadGained(self._store.token))
        elif not lead and self._leads:
            self.lose()
        elif not lead and not self._stands_by:
            self._stands_by = True
            self._emit(StandsBy())
        return bool(lead)

    def lose(self) -> None:
        """A script was refused: another leads, or will."""
        self._leads, self._stands_by = False, True
        self._emit(LeadLost(self._store.token))

    def resign(self) -> None:
        """Give up the lead at once, so that a standby need not wait for it to expire."""
        with suppress(redis.RedisError):
            self._store.elect(ttl_ms=1, info={}, resign=True)
        if self._leads:
            self._leads = False
            self._emit(LeadLost(self._store.token, resigned=True))
