"""The format of what this leader writes: the newest that every live process reads."""

from __future__ import annotations

from collections.abc import Mapping

from dispatcher.errors import FormatMismatch
from dispatcher.store.format_store import FormatStore
from dispatcher.store.formats import FORMATS, FORMATS_UNSAID, Formats, agreed
from dispatcher.store.registration import Registration


class CellFormats:
    """Moves the cell on to a newer format when all its workers read it. A cell never moves back: what lies in Redis is
    not rewritten.
    """

    def __init__(self, store: FormatStore, own: Formats = FORMATS) -> None:
        """``own``: what this process reads."""
        self.writes = FORMATS_UNSAID.newest
        """The format to write in."""
        self._store = store
        self._own = own

    def restart(self) -> None:
        """The lead was gained. Raises :class:`FormatMismatch` where this process must not lead this cell, and what
        redis-py raises.
        """
        in_use = self._store.read()._replace(leader=None)  # which is this process by now
        if (why := in_use.refusal("this dispatcher", self._own)) is not None:
            raise FormatMismatch(why)
        self.writes = FORMATS_UNSAID.newest if in_use.stored is None else in_use.stored.newest
        self._move_on({worker.epoch: worker.formats for worker in in_use.workers})
        if self.writes < self._own.oldest:
            raise FormatMismatch(f"this dispatcher reads {self._own}, but a worker was registered here that does not: start it again")

    def step(self, registered: Mapping[str, Registration]) -> bool:
        """Move on if all workers let us; whether they did. ``registered``: epoch → registration, of those that have
        ended too.
        """
        if self.writes == self._own.newest:
            return False
        before = self.writes
        self._move_on({epoch: registration.formats for epoch, registration in registered.items()})
        return self.writes > before

    def is_read_by(self, registration: Registration) -> bool:
        """False for a worker that shares no format with the others, or one of 0.1.0, which registers without comparing."""
        return registration.formats.covers(Formats(self.writes, self.writes))

    def _move_on(self, workers: Mapping[str, Formats]) -> None:
        newest = agreed((self._own, *workers.values()))
        if newest is not None and newest > self.writes and self._store.raise_to(newest, workers):
            self.writes = newest
