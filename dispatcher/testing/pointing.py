"""Points an app at another Redis for a while, whatever it is configured for, and whatever it is connected to by now."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import kombu.pools
from celery.app.backends import by_url
from celery.backends.redis import RedisBackend

from dispatcher.store.redis_client.connection import point_broker_at, point_results_at

ENVIRONMENT: Final = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
"""Variables by which Celery finds its servers, before it looks into the app's configuration."""

OF_SERVERS: Final = (
    "broker_transport", "broker_use_ssl", "broker_user", "broker_password", "broker_vhost", "broker_port",
    "redis_backend_use_ssl", "redis_username", "redis_password",
)  # fmt: skip
"""Settings that belong to the app's own servers."""


@contextmanager
def pointed_at(app: Any, url: str) -> Iterator[None]:
    """Inside the block, ``app`` has its broker at ``url``, and its results too where it keeps them in Redis or in
    memory; its jobs are sent, though its configuration says ``task_always_eager``. After it, all is as it was.
    """
    app.conf.finalize()
    environment = {name: os.environ.pop(name) for name in ENVIRONMENT if name in os.environ}
    changes = dict(app.conf.changes)
    backends = app._local, app._backend_cache
    try:
        app.conf.update(dict.fromkeys(OF_SERVERS), task_always_eager=False)
        results = app.conf.result_backend
        point_broker_at(app.conf, url)
        if _may_move(app, results):
            point_results_at(app.conf, url)
        _connect_anew(app)
        yield
    finally:
        _close_connections(app)
        app.conf.changes.clear()
        app.conf.changes.update(changes)
        os.environ.update(environment)
        _connect_anew(app)
        app._local, app._backend_cache = backends


def _may_move(app: Any, backend: Any) -> bool:
    if isinstance(backend, str) and backend.startswith("cache+memory"):
        return True
    return issubclass(by_url(backend, app.loader)[0], RedisBackend)


def _connect_anew(app: Any) -> None:
    """What ``app`` sends, asks and reads from here on goes by new connections."""
    app._pool = None
    app.amqp._producer_pool = None
    app._local, app._backend_cache = threading.local(), None
    app.__dict__.pop("control", None)  # its mailbox keeps the pool that it was made with


def _close_connections(app: Any) -> None:
    """The server may be gone after the test. kombu keeps connections for the whole process, and a result that nobody
    needs any more would ask the server to send no more news of it.
    """
    if isinstance(backend := app._backend, RedisBackend):
        backend.result_consumer.subscribed_to.clear()
        backend.result_consumer.stop()
    connection = app.connection_for_write()
    for pools in (kombu.pools.producers, kombu.pools.connections):
        pools[connection].force_close_all()
        del pools[connection]
