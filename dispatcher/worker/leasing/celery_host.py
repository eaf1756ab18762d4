"""What a worker life asks of the Celery worker around it: to stop, to die, to switch its queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.bootsteps import RUN
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state

from dispatcher.worker.leasing.consumer import consume_leases
from dispatcher.worker.life.host import Host
from dispatcher.worker.patches.forced import runs_at_most_once

EXIT_DECLARED_DEAD = 75
"""Exit code of a worker that was declared dead (EX_TEMPFAIL: start me again)."""

EXIT_CUT_SHORT = 1
"""Exit code of a worker that was still running jobs when its time to stop was up; Celery's cold shutdown has the same.
"""


def host_of(c: Any) -> Host:
    """The host of the life of consumer ``c``. Call it in the thread that runs the worker.

    A worker in the main thread owns its process and ends it; a worker in another thread (``start_worker`` of a test)
    ends itself only.
    """
    owns_process = threading.current_thread() is threading.main_thread()
    return Host(
        call_soon=c.call_soon if c.hub is None else c.hub.call_soon,
        has_loop=c.hub is not None,
        stop_warm=lambda: _stop_warm(c, owns_process=owns_process),
        kill_pool=lambda: _kill_pool(c),
        stop_dead=lambda: _stop_dead(c, EXIT_DECLARED_DEAD, owns_process=owns_process),
        stop_short=lambda: _stop_dead(c, EXIT_CUT_SHORT, owns_process=owns_process),
        switch_queue=lambda: _switch_queue(c),
        is_reserved=lambda lease_id: _is_reserved(c, lease_id),
        runs_at_most_once=lambda task: _runs_at_most_once(c, task),
        loop_runs_jobs=c.controller.dispatched.pool == "solo",
    )


def _stop_warm(c: Any, *, owns_process: bool) -> None:
    if owns_process:
        # What Celery's SIGTERM handler sets: obeyed by the loop, and by a consumer that is busy reconnecting.
        state.should_stop = 0
        c.call_soon(_nothing)
    elif c.blueprint.state == RUN:  # the flag above would stop every worker in this process
        c.call_soon(_raise(WorkerShutdown(0)))


def _kill_pool(c: Any) -> None:
    pool = getattr(c.pool, "_pool", None)
    for process in list(getattr(pool, "_pool", ())):
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def _stop_dead(c: Any, exit_code: int, *, owns_process: bool) -> None:
    _kill_pool(c)
    if owns_process:
        os._exit(exit_code)
    c.call_soon(_raise(WorkerTerminate(exit_code)))


def _switch_queue(c: Any) -> None:
    if c.task_consumer is not None:
        consume_leases(c)
        c.task_consumer.consume()


def _is_reserved(c: Any, lease_id: str) -> bool:
    """Looks through what Celery holds; used only where a delivery raised."""
    waiting = [request for bucket in c.task_buckets.values() if bucket for request, _ in bucket.contents]
    known = [*state.reserved_requests, *state.active_requests, *state.scheduled_requests, *waiting]
    return any(request.message.delivery_tag == lease_id for request in known)


def _runs_at_most_once(c: Any, name: str) -> bool:
    task = c.app.tasks.get(name)
    return task is not None and runs_at_most_once(task)


def _raise(exc: BaseException) -> Callable[[], None]:
    def stop() -> None:
        raise exc

    return stop


def _nothing() -> None:
    pass
