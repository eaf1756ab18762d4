"""Gives dead jobs their state in Celery's result backend, so that ``AsyncResult.get()`` raises instead of hanging.

A dead letter is marked *unsettled* in the script that buries it and the mark goes after its FAILURE is stored: a
dispatcher that dies in between is followed by one that stores it (again). A standby settles nothing. Runs in a thread
of its own: a slow backend must not stop dispatching.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis
from celery import Celery
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from kombu.exceptions import OperationalError

from dispatcher.core.facts.message import headers_of, reply_address_of
from dispatcher.core.returns.poison import story_text
from dispatcher.errors import JobDead, PoisonJob
from dispatcher.events import Event, JobSettled
from dispatcher.leader.canvas import canvas_of, content_types
from dispatcher.store.keys import text_names
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.redis_client.connection import BROKEN, is_outage

log = logging.getLogger(__name__)

POISON: Final = frozenset({"worker_died", "process_died", "delivery_failed"})
"""Reasons of jobs that ended their worker or process each time, or that no worker could begin."""


class Settler:
    """Stores FAILURE with :class:`~dispatcher.errors.JobDead` for dead letters, chords and errbacks included."""

    def __init__(self, store: UnsettledStore, app: Celery, emit: Callable[[Event], None], *, batch: int = 50) -> None:
        self._store = store
        self._app = app
        self._emit = emit
        self._batch = batch

    def step(self) -> int:
        """Settle a few dead letters. How many were settled. Call again later.

        Tries all of them before it raises the first error of Redis or the backend: a state that cannot be stored must
        not keep the others waiting.
        """
        settled, failed = 0, None
        for job, message, record in self._store.some(self._batch):
            try:
                error = error_of(record)
                if task_id := store_failure(self._app, error, message, record.get("task_id")):
                    self._emit(JobSettled(job, task_id, error.reason))
                self._store.settled(job)
                settled += 1
            except (redis.ConnectionError, redis.TimeoutError, OperationalError):
                raise  # of the others, too
            except Exception as exc:  # noqa: BLE001 (whatever the canvas of that job makes Celery raise)
                failed = failed or exc
        if failed is not None:
            raise failed
        return settled


def error_of(record: Mapping[str, Any]) -> JobDead:
    """What ``get()`` raises for a dead letter, given what was noted when it was buried: the story of its runs is in its
    text.
    """
    reason, detail, story = str(record.get("reason", "dead")), str(record.get("detail", "")), record.get("story")
    if isinstance(story, list) and story:
        detail = f"{detail}: {story_text(story)}"
    return (PoisonJob if reason in POISON else JobDead)(reason, detail)


def store_failure(app: Celery, error: JobDead, message: bytes | str | None, task_id: str | None = None) -> str | None:
    """Store FAILURE for the job of ``message`` and for its canvas, where its task keeps its results. Returns the task
    id; ``None`` if no state was stored: the message has no id, or its sender asked for no result.

    ``task_id``: where it is known already. Raises what the backend raises.
    """
    headers = headers_of(message)
    task_id = task_id or headers.get("id")
    if not isinstance(task_id, str) or not task_id or not text_names([task_id]):  # no backend keeps half a surrogate pair
        return None
    if not isinstance(headers.get("group_index"), int):
        headers.pop("group_index", None)  # Redis would refuse it as a score, as if the backend had failed
    known = {**headers, **canvas_of(message, content_types(app)), **reply_address_of(message)}
    context = Context({**known, "id": task_id, "args": [], "kwargs": {}, "delivery_info": {}, "called_directly": False})
    task = _task_of(app, headers)
    backend = app.backend if task is None else task.backend
    is_kept = not headers.get("ignore_result") or bool(getattr(task, "store_errors_even_if_ignored", False))
    try:
        try:
            backend.mark_as_failure(task_id, error, request=context, store_result=is_kept)
        except (*BROKEN, redis.ResponseError) as exc:
            if is_outage(exc):
                raise
            # The canvas in the message is as broken as the rest of it; the job's own state must be stored all the same.
            log.warning("cannot tell the canvas of dead job %s: %s", task_id, exc)
            if is_kept:
                backend.store_result(task_id, error, "FAILURE", request=context)
    finally:
        _close_stale_connections()
    return task_id if is_kept and _keeps(backend, context) else None


def _task_of(app: Celery, headers: Mapping[str, Any]) -> Any:
    """The task, which may have a result backend of its own; ``None`` if it is not known here."""
    name = headers.get("task")
    return app.tasks.get(name) if isinstance(name, str) else None


def _keeps(backend: Any, context: Context) -> bool:
    """False if ``backend`` drops what it is given: results are off, or it sends them and there is no address."""
    if isinstance(backend, DisabledBackend):
        return False
    return not isinstance(backend, RPCBackend) or bool(context.reply_to)


def _close_stale_connections() -> None:
    """Django keeps a database connection for each thread, and closes those that are broken or too old only where it
    serves requests.
    """
    if (django_db := sys.modules.get("django.db")) is not None:
        django_db.close_old_connections()
