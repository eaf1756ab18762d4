"""Celery's request, for two differences: it ends its lease without a channel, and it says why a job comes back.

Celery calls ``reject(requeue=True)`` both where a task asked for it and where a process died; only here can they be told apart.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import redis
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import OperationalError

from dispatcher.store.worker_store import GiveBack
from dispatcher.worker.keeper import Outcome

CANNOT_SEND = (OperationalError, redis.RedisError)
"""Why a task's own next try could not be sent. Celery then rejects the job for good; here it goes back in line, or it would be lost."""


class _LeaseMixin:
    _outcome = Outcome.DONE
    _crash = ("process_died", "its process died while it ran")

    def on_accepted(self: Any, pid: int, time_accepted: float) -> None:
        self._message.channel.life.keeper.started(self._message.delivery_tag, int(time_accepted * 1000), pid)
        super().on_accepted(pid, time_accepted)  # type: ignore[misc]

    def on_failure(self: Any, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Retry):
            self._outcome = Outcome.RETRIED
        elif isinstance(exc, Reject) and (exc.requeue or isinstance(exc.reason, CANNOT_SEND)):
            self._outcome = Outcome.REJECTED
        elif not isinstance(exc, Ignore):
            self._outcome = Outcome.FAILED
        if isinstance(exc, TimeLimitExceeded):
            self._crash = ("time_limit", f"it passed its hard time limit: {exc}")
        elif isinstance(exc, WorkerLostError):
            self._crash = ("process_died", f"its process died while it ran: {str(exc).partition(' Job:')[0]}")
        return super().on_failure(exc_info, send_failed_event, return_ok)  # type: ignore[misc]

    def acknowledge(self: Any) -> None:
        """The job has ended. Straight to the keeper: neither a closed channel nor a loop that stopped can lose it."""
        if not self.acknowledged:
            self._message.channel.life.keeper.ack(self._message.delivery_tag, self._outcome)
            self.acknowledged = True

    def reject(self: Any, requeue: bool = False) -> None:
        if self.acknowledged:
            return
        life, lease_id = self._message.channel.life, self._message.delivery_tag
        if self._outcome is Outcome.REJECTED:
            life.keeper.give_back(GiveBack(lease_id, "rejects"), Outcome.REJECTED)
        elif not requeue:
            life.keeper.ack(lease_id, Outcome.FAILED)
        else:
            life.keeper.give_back(life.crash(lease_id, *self._crash))
        self.acknowledged = True
        self.send_event("task-rejected", requeue=requeue)


@cache
def lease_request(base: type) -> type:
    """The request class of a task whose own is ``base``."""
    if issubclass(base, _LeaseMixin):  # a second worker in this process
        return base
    return type("Request", (_LeaseMixin, base), {"__module__": __name__})
