"""The last word about a task is that of its last run.

Celery sends a retry first, and then stores the state RETRY of the run that asked for it. By then the next run may be
over: Celery looks for its SUCCESS, but what comes between that look and its own write is overwritten, as is any
FAILURE, and ``AsyncResult.get()`` waits for ever. Here RETRY is written only where nothing final is, in one step with
the look. The sooner jobs are dispatched, the more it matters.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend

from dispatcher.store.scripts.call import call_script


def keep_last_state() -> None:
    """Have every Redis result backend of this process, and of the pool that it forks, store RETRY so. May be called
    again.
    """
    stored = RedisBackend._set_with_state
    if hasattr(stored, "__wrapped__"):
        return

    @wraps(stored)
    def _set_with_state(self: Any, key: Any, value: Any, state: str) -> Any:
        if state != states.RETRY:
            return stored(self, key, value, state)
        return self.ensure(_store_unless_final, (self, key, value))

    RedisBackend._set_with_state = _set_with_state


def _store_unless_final(backend: Any, key: Any, value: Any) -> None:
    while True:
        seen = backend.client.get(key)
        if seen and backend.decode_result(seen)["status"] in states.READY_STATES:
            return
        if call_script(backend.client.execute_command, ("store_retry", [key], [seen or b"", value, int(backend.expires or 0)])):
            return
