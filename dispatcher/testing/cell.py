"""A cell in this process: the dispatcher in a thread, the worker's pool in threads, Redis beside them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging

from dispatcher.clock import SystemClock
from dispatcher.errors import Invalid, Unavailable
from dispatcher.settings import Settings, load_settings
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.testing.pointing import pointed_at
from dispatcher.testing.private_redis import emptied, private_redis
from dispatcher.wiring import build_dispatcher, connect_cell, keys_of
from dispatcher.worker.attach import attachment, is_attached
from dispatcher.worker.undo import undo_dispatched

READY_TIMEOUT_S: Final = 30.0
POOLS: Final = ("threads", "solo")
"""A pool of processes would be forked from a process with threads: what locks they hold just then stay held in it."""

_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class Cell:
    """What runs while a block of :func:`dispatched` lasts."""

    app: Any
    """The app, which sends to this cell."""
    worker: Any
    """Celery's worker: ``worker.reload()`` makes tasks known that were registered since."""
    redis_url: str
    """The cell's Redis, in redis-py's form."""
    _admin: AdminStore

    def status(self) -> dict[str, Any]:
        """What ``dispatcher status --json`` prints: what waits and why, which workers there are."""
        return self._admin.status()


@contextmanager
def dispatched(
    app: Any, *, redis_url: str | None = None, pool: str = "threads", concurrency: int = 2, **worker_options: Any
) -> Iterator[Cell]:
    """Inside the block, jobs of ``app`` are dispatched to a worker of it in this process, and run there.

    ``app`` must be attached. Its broker, its results, ``task_always_eager`` and what else :func:`pointed_at` names are
    changed for the block. ``redis_url``: an empty database, which is emptied again; ``None``: a Redis of the block's
    own. ``worker_options`` are those of ``celery.contrib.testing.worker.start_worker``, and of dispatched workers:
    ``queues``, ``models``, ``labels``, ``weight``. The app's worker signals are sent, and logging is left as it is.

    Raises :class:`Invalid`, or :class:`Unavailable` where there is no Redis or the cell does not become ready.
    """
    if not is_attached(app):
        raise Invalid(
            f"the app {app.main!r} is not attached: call attach(app), of dispatcher.worker, where the app is made"
        )
    if pool not in POOLS:
        raise Invalid(f"a cell in a test's process cannot have a pool {pool!r}: choose {' or '.join(POOLS)}")
    with ExitStack() as stack:
        url = redis_url or stack.enter_context(private_redis())
        stack.enter_context(emptied(url))
        stack.enter_context(pointed_at(app, url))
        stack.callback(undo_dispatched, app)
        settings = replace(attachment(app).settings or load_settings(os.environ), redis_url=url, flower_url="")
        client = stack.enter_context(connect_cell(settings, app))
        admin = AdminStore(client, keys_of(settings, app))
        dispatcher = stack.enter_context(_dispatching(settings, app))
        worker = stack.enter_context(_working(app, pool=pool, concurrency=concurrency, **worker_options))
        _wait_until_ready(admin, dispatcher, worker.hostname)
        yield Cell(app, worker, url, admin)


class _Dispatching(threading.Thread):
    """A dispatcher until ``stop`` is set."""

    def __init__(self, settings: Settings, app: Any) -> None:
        super().__init__(name="dispatcher", daemon=True)
        self.stop = threading.Event()
        self.error: Exception | None = None
        self._process = build_dispatcher(settings, app)

    def run(self) -> None:
        try:
            self._process.run(self.stop)
        except Exception as exc:  # noqa: BLE001 (whoever waits for the cell raises it)
            self.error = exc


@contextmanager
def _dispatching(settings: Settings, app: Any) -> Iterator[_Dispatching]:
    thread = _Dispatching(settings, app)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop.set()
        thread.join(READY_TIMEOUT_S)


@contextmanager
def _working(app: Any, **options: Any) -> Iterator[Any]:
    """As Celery's helper for tests starts a worker; but that one takes away the handlers that pytest reads logs by."""
    with ExitStack() as stack:
        setup_logging.connect(_leave_logging)
        try:
            worker = stack.enter_context(start_worker(app, perform_ping_check=False, **options))
        finally:
            setup_logging.disconnect(_leave_logging)
        yield worker


def _leave_logging(**_: Any) -> None:
    """Where anybody receives the signal ``setup_logging``, Celery configures nothing."""


def _wait_until_ready(admin: AdminStore, dispatcher: _Dispatching, worker: str) -> None:
    deadline_ms = _clock.monotonic_ms() + READY_TIMEOUT_S * 1000
    while _clock.monotonic_ms() < deadline_ms:
        if dispatcher.error is not None:
            raise dispatcher.error
        status = admin.status()
        ready = any(life["name"] == worker and life["state"] == "ready" for life in status["workers"])
        if ready and status["leader"]:
            return
        _clock.sleep(0.02)
    raise Unavailable(
        f"the cell of the test is not ready after {READY_TIMEOUT_S:.0f} s: its log says what the worker waits for"
    )
