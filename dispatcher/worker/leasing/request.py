"""Celery's request, with two differences: it ends its lease without a channel, and it says why a job comes back.

Celery calls ``reject(requeue=True)`` both where a task asked for it and where a process died; only here can they be
told apart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import redis
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.concurrency.thread import ApplyResult
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError

from dispatcher.core.returns.ending import Cause, GiveBack
from dispatcher.store.redis_client.connection import is_outage
from dispatcher.worker.life.held import Outcome
from dispatcher.worker.time_limits import warn_of_job

log = logging.getLogger(__name__)

CANNOT_SEND = (OperationalError, redis.RedisError)
"""Why a task's own next try could not be sent. Celery then rejects the job for good; here it goes back in line, or it
would be lost.
"""


class LeaseRequestMixin:
    _outcome = Outcome.DONE
    """How the job ended, as far as is known."""
    _bad_end = (Cause.PROCESS_DIED, "its process died while it ran")
    """Why the job did not end, for when Celery rejects it."""
    _must_return = False
    """The job goes back even where Celery rejects it for good."""
    eta = None
    """It was due by Redis' clock; by this machine's it may not be, and Celery would hold it here until then. The task
    reads its eta in ``self.request``, as its sender wrote it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Celery makes a class for each task, on top of this one, that overrides what begins and ends a job."""
        super().__init_subclass__(**kwargs)
        if "on_success" in cls.__dict__:
            cls.on_success = _reporting_exits(cls.on_success)  # type: ignore[attr-defined]
            cls.execute_using_pool = _reporting_hooks(cls.execute_using_pool)  # type: ignore[attr-defined]

    def on_accepted(self: Any, pid: int, time_accepted: float) -> None:
        life = self._message.channel.life
        life.keeper.started(self._message.delivery_tag, int(time_accepted * 1000), pid)
        if any(self.time_limits) and (pool := life.registration.pool) != "prefork":
            warn_of_job(self.task.name, pool)
        super().on_accepted(pid, time_accepted)  # type: ignore[misc]

    @contextmanager
    def _ends(self: Any) -> Iterator[None]:
        """Give the lease back if anything fails while Celery ends the job: the pool is done with it, and nothing else
        would end the lease. Raised further, the error would stop a solo worker, and its successors, or vanish in a
        thread.
        """
        try:
            yield
        except Exception as exc:
            if self.acknowledged:
                raise
            log.exception("cannot end the job of lease %s: it goes back in line", self._message.delivery_tag)
            self._cannot_end(exc)
            self.reject(requeue=True)

    def _cannot_end(self: Any, exc: Exception) -> None:
        """It goes back in line, whatever Celery asks for, or is buried where it must not be run again."""
        self._must_return = True
        self._outcome = Outcome.FAILED
        cause = Cause.OUTAGE if isinstance(exc, CANNOT_SEND) and is_outage(exc) else Cause.ENDING_FAILED
        self._bad_end = cause, f"its run was over, and could not be ended: {type(exc).__name__}: {exc}"

    def _cannot_begin(self: Any, exc: Exception, pool: Any) -> None:
        """The pool has not got the job, and Celery would end the worker: the job goes back in line, counted. Threads
        refuse jobs only when they end; that is no fault of the job.
        """
        lease_id = self._message.delivery_tag
        task_ready(self)
        if isinstance(pool, ThreadPool):
            self._message.channel.life.keeper.give_back(GiveBack.uncounted(lease_id))
            self.acknowledged = True
            return
        log.error("cannot hand the job of lease %s to the pool: it goes back in line", lease_id, exc_info=exc)
        self._outcome = Outcome.FAILED
        self._bad_end = Cause.DELIVERY_FAILED, f"its worker could not hand it to the pool: {type(exc).__name__}: {exc}"
        self.reject(requeue=True)

    def on_timeout(self: Any, soft: bool, timeout: float) -> Any:
        with self._ends():
            return super().on_timeout(soft, timeout)  # type: ignore[misc]

    def on_failure(self: Any, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Retry):
            self._outcome = Outcome.RETRIED
        elif isinstance(exc, Reject) and exc.requeue:
            self._outcome = Outcome.REJECTED
        elif isinstance(exc, Reject) and isinstance(exc.reason, CANNOT_SEND):
            self._cannot_end(exc.reason)
        else:
            self._outcome = Outcome.IGNORED if isinstance(exc, Ignore) else Outcome.FAILED
        if isinstance(exc, TimeLimitExceeded):
            self._bad_end = Cause.TIME_LIMIT, f"it passed its hard time limit: {exc}"
        elif isinstance(exc, WorkerLostError):
            when = "read it" if self.time_start is None else "ran it"
            self._bad_end = Cause.PROCESS_DIED, f"its process died while it {when}: {str(exc).partition(' Job:')[0]}"
        with self._ends():
            try:
                return super().on_failure(exc_info, send_failed_event, return_ok)  # type: ignore[misc]
            except MemoryError:
                if not isinstance(exc, MemoryError):
                    raise
                self._memory_error(exc, exc_info, is_stored=return_ok)

    def _memory_error(self: Any, exc: MemoryError, exc_info: Any, *, is_stored: bool) -> None:
        """A task that asked for more memory than there is has failed. Celery stops the worker for it, and so would each
        that is given the job next.
        """
        if not is_stored:
            self.task.backend.mark_as_failure(self.id, exc, request=self._context, store_result=self.store_errors)
        self.acknowledge()
        self.send_event("task-failed", exception=repr(exc), traceback=exc_info.traceback)

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
            life.keeper.give_back(GiveBack.rejected(lease_id))
        elif requeue or self._must_return:
            life.end_badly(lease_id, *self._bad_end)
        else:
            life.keeper.ack(lease_id, Outcome.FAILED)
        self.acknowledged = True
        self.send_event("task-rejected", requeue=requeue)


def _reporting_exits(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """In threads and in the loop, Celery calls this also for a task that raised SystemExit or the like: we report a
    failure then.
    """

    @wraps(on_success)
    def wrapped(self: Any, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        if isinstance(failed__retval__runtime, ExceptionInfo):
            return self.on_failure(failed__retval__runtime)
        with self._ends():
            return on_success(self, failed__retval__runtime, **kwargs)

    return wrapped


def _reporting_hooks(execute_using_pool: Callable[..., Any]) -> Callable[..., Any]:
    """Exceptions of a task's hooks (Reject, MemoryError) reach Celery only in prefork. In a thread they vanish with the
    job, in solo they stop the worker: so we report them to ``on_failure`` ourselves.

    An exception that keeps a job from its pool would stop the worker too, or vanish in a timer with the job's lease.
    """

    @wraps(execute_using_pool)
    def wrapped(self: Any, pool: Any, **kwargs: Any) -> Any:
        def see(run: Future[Any]) -> None:
            if not run.cancelled() and (exc := run.exception()) is not None and not self.acknowledged:
                self.on_failure(ExceptionInfo((type(exc), exc, exc.__traceback__)))

        try:
            running = execute_using_pool(self, pool, **kwargs)
        except TaskRevokedError:
            raise
        except Exception as exc:
            if self.acknowledged:
                raise
            if isinstance(exc, Reject | MemoryError):
                self.on_failure(ExceptionInfo())
            else:
                self._cannot_begin(exc, pool)
            raise TaskRevokedError from None  # Celery gives back the slot of the pool for this, and for nothing else
        if isinstance(running, ApplyResult):
            running.f.add_done_callback(see)
        return running

    return wrapped


@cache
def lease_request(base: type) -> type:
    """The request class of a task whose own is ``base``."""
    if issubclass(base, LeaseRequestMixin):  # a second worker in this process
        return base
    return type("Request", (LeaseRequestMixin, base), {"__module__": __name__})


def plain_request(kind: type) -> type:
    """The request class that :func:`lease_request` was given for ``kind``; ``kind`` itself where it made none."""
    return kind.__bases__[1] if kind.__bases__[0] is LeaseRequestMixin else kind
