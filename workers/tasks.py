"""The tasks of the ready-made app; not shared, so that importing this adds none to another Celery app."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.signals import worker_init, worker_process_shutdown

from dispatcher.clock import SystemClock
from dispatcher.core.facts.header import ALONE_HEADER, MODEL_HEADER
from dispatcher.worker import report_models
from workers.apart import run_apart
from workers.app import app
from workers.chunk import run_chunk
from workers.loaded import models

_clock = SystemClock()


# Without the repr of the result: logs, task events and Flower would show what the models answered.
@app.task(name="workers.tasks.infer", bind=True, shared=False, resultrepr_maxsize=0)
def infer(self: Task[..., Any], chunk: dict[str, Any]) -> dict[str, Any]:
    """Run one chunk of a batch; see :func:`workers.chunk.run_chunk`. One that died with its process or worker, so often
    that this is its last run, is split: each line runs by itself, apart from this process
    (:func:`workers.apart.run_apart`).

    Beside the lines the result says which worker ran them (``worker``, its node name) and for how long (``busy_ms``).
    """
    started_ms = _clock.monotonic_ms()
    if version := self.request.get(MODEL_HEADER):
        chunk = {**chunk, "model": version}  # what it names may be an alias
    if self.request.get(ALONE_HEADER):
        models.close()  # there may not be memory for the model twice
        result = run_apart(chunk, request_id=str(self.request.id))
    else:
        result = run_chunk(chunk, models, request_id=str(self.request.id))
    return result | {"worker": self.request.hostname, "busy_ms": _clock.monotonic_ms() - started_ms}


@app.task(name="workers.tasks.noop", shared=False)
def noop(*_args: Any, **_kwargs: Any) -> None:
    """Do nothing: measures what a job costs before it does anything."""


@app.task(name="workers.tasks.sleep", shared=False)
def sleep(seconds: float) -> float:
    """Hold a slot for ``seconds`` and return them: a job of known length, for benchmarks and tests."""
    _clock.sleep(seconds)
    return seconds


@worker_init.connect
def _report_no_models(sender: Any = None, **_: Any) -> None:
    """From the start: a worker that says nothing of its memory is taken to have nothing to load."""
    if sender is not None and sender.app is app:
        report_models(())


@worker_process_shutdown.connect
def _close_models(**_: Any) -> None:
    models.close()
