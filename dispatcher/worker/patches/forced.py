"""The configuration that the promises rest on, forced on a worker when it starts, and on each of its tasks."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import redis
from celery.app.task import Task
from celery.exceptions import CPendingDeprecationWarning

from dispatcher.store.redis_client.connection import bound_waits

log = logging.getLogger(__name__)

PUBLISH_TRIES = 3600
"""How often a task tries to send another, about once a second. Not for ever: Celery takes "no limit" for its own limit,
three; and it adds up the waits at the end of every chord.
"""

FORCED: dict[str, Any] = {
    # A lease ends when its job has ended, not when it starts; a job whose process died goes back in line.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    # What a worker holds is decided by its window of leases.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": False,
    # A lease outlives its connection, so what runs goes on, and nothing must be fetched more slowly after a reconnect.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_prefetch_count_reduction": False,
    # A failover answers with error replies (READONLY, UNBLOCKED); an outage may be long. Neither must end a worker.
    "broker_channel_error_retry": True,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A job that ran must not be called failed because the connection broke under its result; nor acked before its
    # result is stored.
    "result_backend_always_retry": True,
    # A retry that cannot be sent is dropped by Celery, and so is the rest of a chain or a chord's body. An outage must
    # cost no more than its time, so tasks wait it out; the default gives up after a second.
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": PUBLISH_TRIES, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
    # It skips counting a chord's part that is run again, and the chord then never fires.
    "worker_deduplicate_successful_tasks": False,
}


def force_settings(conf: Any) -> None:
    """Force :data:`FORCED` on the configuration of an app whose worker starts here."""
    if conf.worker_deduplicate_successful_tasks:
        log.warning("worker_deduplicate_successful_tasks is switched off: with it, a chord can wait for ever")
    for name, value in FORCED.items():
        conf[name] = value
    bound_waits(conf)
    force_patience()
    # Celery asks, at each reconnect, for the one answer that must not be given (see FORCED).
    warnings.filterwarnings("ignore", r"\s*In Celery 5.1 we introduced an optional breaking change", CPendingDeprecationWarning)


REFUSALS = ("OOM", "NOREPLICAS", "MISCONF", "READONLY")
"""How a Redis begins its answer that takes no writes for now: it is full, its replicas are away, its disk is, or it
failed over.
"""


def force_patience() -> None:
    """Make Celery's Redis result backends in this process wait where Redis refuses a result for now, as they do where
    it is away.

    They would give up, and the job's result would be lost though it ran; there is no setting for it.
    """
    from celery.backends.redis import RedisBackend

    if RedisBackend.exception_safe_to_retry is not _safe_to_retry:
        RedisBackend.exception_safe_to_retry = _safe_to_retry


def _safe_to_retry(backend: Any, exc: BaseException) -> bool:
    if isinstance(exc, redis.ResponseError):
        # Of a pipeline's error the answer is the end; before it stands the command, which may hold anything.
        return isinstance(exc, redis.exceptions.OutOfMemoryError) or str(exc).rpartition("caused error: ")[2].startswith(REFUSALS)
    return isinstance(exc, backend.connection_errors)


def force_task(task: Any) -> None:
    """Force the same on one task object: what a task says for itself beats the app's configuration."""
    task.acks_late = True
    task.reject_on_worker_lost = True


def free_task(task: Any) -> None:
    """Undo :func:`force_task`: what the task's class says holds again."""
    for name in ("acks_late", "reject_on_worker_lost"):
        vars(task).pop(name, None)


def runs_at_most_once(task: Any) -> bool:
    """True if ``acks_late=False`` was said for this task, in its decorator or by its class, and not merely left at the
    default.

    ``Task.bind`` fills in defaults from the configuration by setting class attributes too, but it sets ``__bound__``
    first, and a class remembers in which order its attributes were set.
    """
    for cls in type(task).__mro__:
        if cls is Task:
            return False
        names = list(vars(cls))
        if "acks_late" not in names:
            continue
        by_bind = "__bound__" in names and names.index("__bound__") < names.index("acks_late")
        if by_bind:
            continue  # a default that a base class may have overridden, were it not for this class
        if (said := vars(cls)["acks_late"]) is not None:
            return not said
    return False
