"""Keys of the cell that are of another type than they should be: what lies there is moved aside, or nothing goes on."""

from __future__ import annotations

import redis

from dispatcher.core.facts.every import Every
from dispatcher.leader.telling.unreadable import UnreadableReport
from dispatcher.store.leader.dispatch_store import DispatchStore


class MistypedKeys:
    """Looks once in ``interval_ms``, and whenever a step was refused for such a key."""

    def __init__(self, store: DispatchStore, unreadable: UnreadableReport, *, interval_ms: int) -> None:
        self._store = store
        self._unreadable = unreadable
        self._time_to_look = Every(interval_ms)

    def step(self, monotonic_ms: int) -> None:
        """For the sake of workers, whose calls are refused, too. Raises what redis-py raises."""
        if self._time_to_look.due(monotonic_ms):
            self._free()

    def heal(self, error: redis.ResponseError) -> bool:
        """True if ``error`` speaks of a key of another type; then such keys are free now."""
        if "WRONGTYPE" not in str(error):
            return False
        self._free()
        return True

    def _free(self) -> None:
        self._unreadable.report(f"what is now under {key + ':aside'!r}" for key in self._store.free_keys())
