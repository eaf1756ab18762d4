"""What a task sends (its retry, the rest of a chain, a chord's body) waits for Redis, and for Redis to say that it has it.

Celery's retry policy sees to that once there is a connection. To open one takes ``broker_connection_timeout`` at most, 4 s, whatever the
policy says, and so the first message that a pool process sends in an outage was given up: a retry was refused, and its job ran again.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Final

from celery._state import get_current_task
from kombu import pools

from dispatcher.store.connection import RESULT_WAIT_S
from dispatcher.worker.forced import PUBLISH_TRIES

WAITS: Final = {
    # A message is sent again where its answer did not come; one that was only slow is then there twice.
    "socket_timeout": RESULT_WAIT_S,
    "connect_retries_timeout": PUBLISH_TRIES,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 1,
}
"""Transport options of connections that tasks send by. Only they: the loop of a worker must not wait for so long."""


class _WaitsMixin:
    _waiting_pool: tuple[int, Any] | None = None

    @property
    def producer_pool(self: Any) -> Any:
        """Celery's, and inside a task one whose connections wait."""
        if get_current_task() is None:
            return super().producer_pool  # type: ignore[misc]
        if self._waiting_pool is None or self._waiting_pool[0] != os.getpid():
            connection = self.app.connection_for_write()
            given = connection.transport_options
            waits = WAITS | {"socket_timeout": max(RESULT_WAIT_S, given.get("socket_timeout") or 0)}
            connection.transport_options = {**given, **waits}
            pool = pools.producers[connection]
            pool.limit = self.app.pool.limit
            self._waiting_pool = os.getpid(), pool
        return self._waiting_pool[1]


@cache
def _waiting(base: type) -> type:
    return type("WaitingAMQP", (_WaitsMixin, base), {"__module__": __name__})


def wait_in_tasks(app: Any) -> None:
    """Make what tasks of ``app`` send in this process, and in those it forks, wait for Redis."""
    if not isinstance(app.amqp, _WaitsMixin):
        kind: type = type(app.amqp)
        app.amqp.__class__ = _waiting(kind)
