"""An app with what people bring: pickled jobs, a compression of its own, tasks that are registered once the worker runs.

``PROMISE_NEWER`` is a folder that is importable in newer workers only; ``PROMISE_ACCEPTS`` are the serializers that a worker
accepts, ``PROMISE_PROTOCOL`` is the task protocol that its tasks send in.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from celery import signals

from tests.own_compression import register_compression
from tests.process.app import app, note

if newer := os.environ.get("PROMISE_NEWER"):
    sys.path.insert(0, newer)

app.conf.update(
    accept_content=os.environ.get("PROMISE_ACCEPTS", "json,pickle").split(","),
    task_protocol=int(os.environ.get("PROMISE_PROTOCOL", "2")),
    worker_pool_restarts=True,
)


register_compression()


@app.task(name="length")
def length(x: Any) -> int:
    note("start")
    return len(x) if isinstance(x, str) else 1


@app.task(name="who", bind=True)
def who(self: Any) -> list[Any]:
    """What a job knows of itself."""
    request = self.request
    return [str(request.id), request.retries, request.get("mine") or (request.headers or {}).get("mine")]


@app.task(name="twice more", bind=True, max_retries=2)
def twice_more(self: Any) -> int:
    """Retries twice, in the protocol that the app sends in."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return int(self.request.retries)


@signals.worker_ready.connect
def register_later(sender: Any = None, **_: Any) -> None:
    """Register a task once the worker runs, as a plugin does."""
    if os.environ.get("PROMISE_LATE"):

        @app.task(name="late")
        def late() -> str:
            return "ran"

        app.finalize()
        sender.update_strategies()
