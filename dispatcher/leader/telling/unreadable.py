"""Reports what in Redis cannot be read: each thing once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dispatcher.events import Event, Unreadable


class UnreadableReport:
    """Remembers what it has reported: the thing is there at each look, and one event of it is enough."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._reported: set[str] = set()

    def report(self, things: Iterable[str]) -> None:
        """Emit an event for each of these, in words, that was not reported before."""
        for thing in things:
            if thing not in self._reported:
                self._reported.add(thing)
                self._emit(Unreadable(thing))
