"""Celery's consumer, with one difference: a lease outlives its connection, so a reconnect drops nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

from celery.bootsteps import RUN
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.signals import task_rejected, task_unknown
from celery.utils.imports import symbol_by_name
from celery.worker.state import maybe_shutdown
from kombu.entity import Exchange, Queue

from dispatcher.clock import SystemClock
from dispatcher.core.returns.ending import Cause
from dispatcher.worker.leasing.request import lease_request, plain_request
from dispatcher.worker.leasing.transport import transport_for
from dispatcher.worker.life.life import WorkerLife
from dispatcher.worker.life.refusals import REFUSED_MAX_S, Refusals
from dispatcher.worker.patches.forced import force_task, free_task, runs_at_most_once

log = logging.getLogger(__name__)

_clock = SystemClock()

RECONNECT_WAIT_MAX_S = 2.0
"""The longest pause between two tries to connect."""


class LeaseConsumerMixin:
    life: WorkerLife | None = None
    """Set by the consumer step, at the first connection."""

    def connection_for_read(self: Any, heartbeat: Any = None) -> Any:
        """As Celery's, over the lease transport. The app's configuration keeps its own: producers share it."""
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        transport = transport_for(connection)
        # Not ``connection.transport_cls``: a URL with a "+" sets that anew, and so does a failover between sentinels.
        connection.get_transport_cls = lambda: transport
        # Celery would wait up to 30 s between tries. Beats are back within a second, and jobs would go to a worker that
        # takes none.
        connection.ensure_connection = partial(
            connection.ensure_connection, interval_start=0.5, interval_step=0.5, interval_max=RECONNECT_WAIT_MAX_S
        )
        return self.ensure_connected(connection)

    def on_connection_error_before_connected(self: Any, exc: BaseException) -> None:
        super().on_connection_error_before_connected(exc)  # type: ignore[misc]
        self.heed_refusal(exc)

    def on_connection_error_after_connected(self: Any, exc: BaseException) -> None:
        super().on_connection_error_after_connected(exc)  # type: ignore[misc]
        self.heed_refusal(exc)

    def heed_refusal(self: Any, exc: BaseException) -> None:
        """Where Redis refused what the consumer needs, say what, wait before the next try, and in the end give up:
        Celery does none of it, for a worker outlives a failover's errors (``broker_channel_error_retry``).
        """
        refusals: Refusals = self.controller.dispatched.refusals
        wait_s = refusals.note(exc)
        if wait_s is None:
            log.critical("Redis has refused this worker for %g s, so it ends: %s", REFUSED_MAX_S, refusals.now())
            raise WorkerShutdown(EX_FAILURE)
        if wait_s:
            log.error("Redis refuses what this worker needs, trying again in %g s: %s", wait_s, refusals.now())
            self.show_refused()
        until_ms = _clock.monotonic_ms() + wait_s * 1000
        while self.blueprint.state == RUN and _clock.monotonic_ms() < until_ms:
            maybe_shutdown()
            _clock.sleep(0.1)

    def update_strategies(self: Any) -> None:
        """Celery calls it at each connection, and whoever registers tasks later does (``worker.reload()``, remote
        control's ``pool_restart``): the dispatcher is told of them.
        """
        make_dispatched(self.app.tasks.values())
        super().update_strategies()  # type: ignore[misc]
        if self.life is not None:
            self.life.has_tasks(*names_of(self.app.tasks))

    # What Celery cannot read it acks or rejects for good, and nobody hears of the job again.

    def on_decode_error(self: Any, message: Any, exc: BaseException) -> None:
        _cannot_read(message, f"its body cannot be read: {_name(exc)}")

    def on_invalid_task(self: Any, body: Any, message: Any, exc: BaseException) -> None:
        _cannot_read(message, f"Celery refuses its message: {_name(exc)}")
        task_rejected.send(sender=self, message=message, exc=exc)

    def on_unknown_message(self: Any, body: Any, message: Any) -> None:
        _cannot_read(message, "its message is in no protocol that Celery knows")
        task_rejected.send(sender=self, message=message, exc=None)

    def on_unknown_task(self: Any, body: Any, message: Any, exc: BaseException) -> None:
        task_id, name = message.headers.get("id"), message.headers.get("task")
        _cannot_read(message, f"the worker has no task {name!r}")
        task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def on_close(self: Any) -> None:
        """A connection was lost; what was taken is still held. A prefork pool finishes what is half written."""
        if self.pool and self.pool.flush:
            self.pool.flush()

    def cancel_active_requests(self: Any) -> None:
        """A cold shutdown. In pools without processes Celery raises, into the job that runs in the loop; there the life
        ends it.
        """
        if self.controller.dispatched.pool == "prefork":
            super().cancel_active_requests()  # type: ignore[misc]

    def cancel_task_queue(self: Any, queue: str) -> None:
        """Remote control's ``cancel_consumer``: of all that the worker is given jobs of, it means "drain, and stay"."""
        if self.life is not None and self.life.stands_for(queue):
            self.life.drain("keep")
        else:
            log.warning("goes on to consume %r: a dispatched worker consumes its own list only", queue)

    def add_task_queue(self: Any, queue: str, *_args: Any, **_kwargs: Any) -> None:
        """Remote control's ``add_consumer``: of what :meth:`cancel_task_queue` cancels, it ends the drain."""
        if self.life is not None and self.life.stands_for(queue):
            self.life.drain("")
        else:
            log.error("refused to consume %r: name queues with -Q when the worker starts, and the dispatcher admits from them", queue)


@cache
def lease_consumer(base: type) -> type:
    """The consumer class of a worker whose own is ``base``."""
    return type("LeaseConsumer", (LeaseConsumerMixin, base), {"__module__": __name__})


def _cannot_read(message: Any, how: str) -> None:
    log.error("cannot begin the job of lease %s, another worker may: %s", message.delivery_tag, how)
    message.channel.life.end_badly(message.delivery_tag, Cause.UNREADABLE, how)


def _name(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def make_dispatched(tasks: Iterable[Any]) -> None:
    """Have workers of this process run these tasks as jobs of leases. May be called again."""
    for task in tasks:
        force_task(task)
        task.Request = lease_request(symbol_by_name(task.Request))


def make_plain(tasks: Iterable[Any]) -> None:
    """Undo :func:`make_dispatched`. May be called again."""
    for task in tasks:
        free_task(task)
        if "Request" in vars(task):
            task.Request = plain_request(symbol_by_name(task.Request))


def names_of(tasks: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of these tasks, and of those that are run at most once."""
    return tuple(sorted(tasks)), tuple(sorted(name for name, task in tasks.items() if runs_at_most_once(task)))


def consume_leases(c: Any) -> None:
    """Make the task consumer consume the list of the worker's life, and nothing else."""
    consumer, life = c.task_consumer, c.life
    for queue in list(consumer.queues):
        consumer.cancel_by_queue(queue.name)
    if consumer.channel.life is not life:
        consumer.channel.lease_to(life)
    # The anonymous exchange, undeclared: anything else leaves a ``_kombu.binding.*`` key that nobody removes.
    anonymous = Exchange("")  # type: ignore[no-untyped-call]
    consumer.add_queue(
        Queue(life.queue_name, anonymous, routing_key=life.queue_name, no_declare=True)  # type: ignore[no-untyped-call]
    )
