"""The two bootsteps that Celery runs in a process that starts a worker of an attached app."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import redis
from celery import bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.signals import task_prerun, worker_shutdown, worker_shutting_down
from celery.utils.imports import symbol_by_name
from celery.worker import state

from dispatcher.clock import SystemClock
from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.errors import FormatMismatch, Invalid
from dispatcher.settings import Settings, load_settings
from dispatcher.store.formats import FORMATS
from dispatcher.store.registration import Registration
from dispatcher.worker.attach import attachment
from dispatcher.worker.banner import banner
from dispatcher.worker.broker import client_of, keys_of
from dispatcher.worker.leasing.celery_host import host_of
from dispatcher.worker.leasing.consumer import consume_leases, lease_consumer, make_dispatched, names_of
from dispatcher.worker.leasing.pool import lease_pool
from dispatcher.worker.leasing.transport import is_in_memory, transport_for
from dispatcher.worker.life.leader_watch import LeaderWatch
from dispatcher.worker.life.life import WorkerLife
from dispatcher.worker.life.lifeline import Lifeline
from dispatcher.worker.life.models import ModelMemory
from dispatcher.worker.life.refusals import Refusals
from dispatcher.worker.options import WorkerOptions, read_options
from dispatcher.worker.patches.chords import keep_chords
from dispatcher.worker.patches.control import replace_commands
from dispatcher.worker.patches.forced import force_settings
from dispatcher.worker.patches.last_state import keep_last_state
from dispatcher.worker.patches.libraries import limit_thread
from dispatcher.worker.patches.publishing import send_once_from_tasks
from dispatcher.worker.refusal import WorkerRefused
from dispatcher.worker.threads import (
    ThreadLimit,
    choose_limit,
    cores_here,
    environ_of_user,
    limit_threads,
    most_processes,
)
from dispatcher.worker.time_limits import unkept_limits
from dispatcher.worker.undo import undo_dispatched

log = logging.getLogger(__name__)

PREFORK_ENDS_S = 5.0
"""How long Celery has to kill its processes and to read what they had done."""

EXIT_REFUSED = 1
"""As any worker that is refused (:class:`WorkerRefused`), which Celery no longer lets us raise once it consumes."""

START = "start `dispatcher -A proj run`"

POOLS = {PreforkPool: "prefork", ThreadPool: "threads", SoloPool: "solo"}


class DispatchedWorker(bootsteps.Step):
    """Runs while a worker is built, before its pool and its consumer are: forces what they must be built with.

    A worker whose broker is its own process' memory stays Celery's own.
    """

    name = "dispatcher.worker"

    def __init__(self, w: Any, **given: Any) -> None:
        super().__init__(w, **given)
        app = w.app
        attached = attachment(app)
        broker = app.connection_for_read()
        if is_in_memory(broker):
            undo_dispatched(app)
            where = "in this process' memory: nothing is dispatched, Celery runs its jobs"
            log.warning("this app's broker is %s, %s", broker.as_uri(), where)
            return
        transport_for(broker)  # refuses what is not Redis
        pool = pool_name(w.pool_cls)
        try:
            settings = attached.settings or load_settings(os.environ)
            options = read_options(given, os.environ, attached.options)
        except Invalid as exc:
            raise WorkerRefused(str(exc)) from exc
        if pool == "solo":
            w.concurrency = 1  # Celery leaves it at the number of CPUs, and would fetch that many jobs
        slots = most_processes(given.get("autoscale")) or w.concurrency
        limit = choose_limit(slots, cores_here(), said=options.threads, environ=environ_of_user())
        limit_threads(limit)
        log.info("%s", banner(settings.cell, app.amqp.queues.consume_from, options, limit))
        if pool == "threads":
            task_prerun.connect(limit_thread)
        w.dispatched = DispatchedFacts(pool, settings, options, limit, remedy_of(w))
        force_settings(app.conf)
        send_once_from_tasks(app, cell=settings.cell)
        w.prefetch_multiplier = 1
        if pool == "prefork":
            w.pool_cls = lease_pool(w.pool_cls)
        w.consumer_cls = lease_consumer(symbol_by_name(w.consumer_cls))
        w.wait_for_soft_shutdown = partial(leave_cold, w, w.wait_for_soft_shutdown)
        task_prerun.connect(w.dispatched.lifeline.wait_until_heard)  # held weakly: as long as the worker is there
        keep_chords()
        keep_last_state()
        replace_commands()
        add_probe(app)
        if (limits := unkept_limits(pool, app, (w.time_limit, w.soft_time_limit))) is not None:
            log.log(*limits)
        make_dispatched(app.tasks.values())


def add_probe(app: Any) -> None:
    """Add the task that a probe runs. Workers only: a producer's app stays as it is."""
    if PROBE_TASK not in app.tasks:

        def probe() -> None:
            probe_of_app = attachment(app).probe
            if probe_of_app is not None:
                probe_of_app()

        # Without events: Flower would count probes as tasks, and an idle fleet's would fill its history.
        options = {"ignore_result": True, "store_errors_even_if_ignored": False, "send_events": False}
        app.task(probe, name=PROBE_TASK, shared=False, **options)


def leave_cold(w: Any, wait: Callable[[], None]) -> None:
    """Begin a cold stop: tell the dispatcher at once, then wait as Celery's soft shutdown does, but not for ever. Runs
    in a signal handler.

    Celery sends its own signal only after the wait. Threads, and a job in the loop, cannot be killed alone: they run on
    until the process ends. In those pools the main thread does not sleep, for it may be what runs the job.
    """
    soft_s = float(w.app.conf.worker_soft_shutdown_timeout or 0)
    prefork = w.dispatched.pool == "prefork"
    if (life := getattr(w.consumer, "life", None)) is not None:
        life.leave(soft_s + (PREFORK_ENDS_S if prefork else 0.0))
        if not prefork:
            return
    wait()


class DispatchedFacts:
    """What is known of a dispatched worker before it connects."""

    def __init__(self, pool: str, settings: Settings, options: WorkerOptions, limit: ThreadLimit, remedy: str) -> None:
        self.pool = pool
        """``prefork``, ``threads`` or ``solo``."""
        self.settings = settings
        self.options = options
        self.limit = limit
        self.memory = ModelMemory(options.models_max)
        self.refusals = Refusals(SystemClock())
        self.lifeline = Lifeline(SystemClock(), lease_ttl_s=settings.lease_ttl_s)
        self.leader_watch = LeaderWatch(SystemClock(), cell=settings.cell, remedy=remedy)


class DispatchedConsumer(bootsteps.StartStopStep):
    """Runs at each connection, after Celery's task consumer is made and before it consumes: swaps the ingress for the
    worker's list.
    """

    name = "dispatcher.consumer"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **given: Any) -> None:
        super().__init__(c, **given)
        self.enabled = hasattr(c.controller, "dispatched")
        self._takes_none = False
        """The life was begun for :meth:`show_refused`, and asks for no jobs."""
        c.show_refused = partial(self.show_refused, c)

    def start(self, c: Any) -> None:
        channel = c.task_consumer.channel
        if c.life is None:
            c.life = self._begin(c, channel)
        else:
            c.life.loop_restarts()
        if self._takes_none:
            self._takes_none = False
            c.life.drain("")
        consume_leases(c)
        if c.controller.dispatched.pool == "solo" and c.event_dispatcher is not None:
            # Events of tasks are sent by the loop, a second later; in this pool the loop is what runs the job.
            c.event_dispatcher.buffer_group = frozenset()
        # The channel is new, and Celery has given it the credit of a worker that holds nothing with an ETA.
        waiting = sum(1 for request in state.scheduled_requests if request.message.delivery_tag in c.life.keeper.held())
        c.qos.increment_eventually(waiting)

    def show_refused(self, c: Any) -> None:
        """Redis refuses the consumer what it needs: if that is at its start, begin a life that asks for no jobs, so
        that ``status`` shows this worker, and why.
        """
        if c.life is not None:
            return
        with suppress(redis.RedisError), c.app.connection_for_read() as connection:
            self._takes_none = True
            c.life = self._begin(c, connection.channel())
        self._takes_none = c.life is not None

    def _begin(self, c: Any, channel: Any) -> WorkerLife:
        facts: DispatchedFacts = c.controller.dispatched
        life = WorkerLife(
            registration_of(c, facts),
            facts.settings,
            keys_of(channel, facts.settings),
            client_of(channel, facts.settings),
            SystemClock(),
            host_of(c),
            facts.memory,
            facts.lifeline,
            facts.refusals,
            facts.leader_watch,
        )
        if self._takes_none:
            life.drain("keep")
        try:
            life.begin()
        except FormatMismatch as exc:
            log.critical("%s", exc)
            raise SystemExit(EXIT_REFUSED) from exc

        # Connected for this worker's life; Celery holds receivers weakly, so they are kept on the step.
        def shutting_down(sender: Any = None, how: str = "", **_: Any) -> None:
            if sender == c.hostname:
                life.leave(facts.settings.shutdown_grace_s or None if how == "Warm" else None)

        def shut_down(sender: Any = None, **_: Any) -> None:
            if sender is c.controller:
                life.finish(is_warm=not state.should_terminate)

        self._receivers = (shutting_down, shut_down)
        worker_shutting_down.connect(shutting_down)
        worker_shutdown.connect(shut_down)
        return life

    def stop(self, c: Any) -> None:
        """The consumer stops: at a reconnect, or for good, and then whatever asked for it, the dispatcher must know at
        once.
        """
        if c.life is not None and c.blueprint.state != bootsteps.RUN:
            c.life.drain("exit")

    def shutdown(self, c: Any) -> None:
        """The very last thing a worker does, cold or warm: its pool has stopped, the last acks are in the outbox."""
        if c.life is not None:
            c.life.finish(is_warm=not state.should_terminate)


def registration_of(c: Any, facts: DispatchedFacts) -> Registration:
    """What the worker of consumer ``c`` says of itself."""
    worker = c.controller
    tasks, at_most_once = names_of(worker.app.tasks)
    return Registration(
        name=c.hostname,
        host=socket.gethostname(),
        pid=os.getpid(),
        concurrency=worker.max_concurrency or worker.concurrency,
        pool=facts.pool,
        weight=facts.options.weight,
        models=facts.options.models,
        models_max=facts.options.models_max,
        threads=facts.limit.threads,
        labels=dict(facts.options.labels),
        ingress=tuple(worker.app.amqp.queues.consume_from),
        tasks=tasks,
        at_most_once=at_most_once,
        version=_version(),
        formats=FORMATS,
    )


def remedy_of(w: Any) -> str:
    """What to do where no dispatcher leads the cell of worker ``w``."""
    if isinstance(w, _worker_of_tests()):
        return f"in tests, start the worker by `dispatched` of dispatcher.testing, which runs both; else {START}"
    return START


def _worker_of_tests() -> tuple[type, ...]:
    """The class of the workers that ``start_worker`` makes; nothing where nobody has imported it."""
    module = sys.modules.get("celery.contrib.testing.worker")
    return () if module is None else (module.TestWorkController,)


def pool_name(pool: Any) -> str:
    """``prefork``, ``threads`` or ``solo``. Raises :class:`WorkerRefused` for any other."""
    for cls, name in POOLS.items():
        if isinstance(pool, type) and issubclass(pool, cls):
            return name
    raise WorkerRefused(
        f"a dispatched worker cannot use the pool {getattr(pool, '__module__', pool)!r}: choose -P prefork, threads or solo"
    )


def _version() -> str:
    try:
        return version("inference-dispatcher")
    except PackageNotFoundError:
        return ""
