"""The Celery app of somebody who runs a dispatcher: plain tasks, one ``attach`` line, timeouts too short for what it runs.

``PROMISE_BROKER``, ``PROMISE_RESULTS`` and ``PROMISE_LEDGER`` are URLs of databases. Every execution is written to the ledger, a Redis
of its own that nothing else uses and no test breaks, before the task does anything, and when it has ended.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, current_task
from celery.exceptions import Ignore, Retry

import tests.unsendable  # noqa: F401 (jobs carry its values)
from dispatcher.store.redis_client.connection import celery_url
from dispatcher.store.redis_client.sentinel import transport_options
from dispatcher.worker import attach

LEDGER_STREAM = "ledger"

BROKER = os.environ["PROMISE_BROKER"]

app = Celery("promises", broker=celery_url(BROKER), backend=celery_url(os.environ["PROMISE_RESULTS"]))
app.conf.update(
    task_default_queue="dispatch",
    broker_connection_retry_on_startup=True,
    redis_socket_timeout=3.0,
    # What stock Celery would redeliver after: shorter than the longest job.
    broker_transport_options={
        "visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1, **transport_options(BROKER),
    },
    result_backend_transport_options=transport_options(BROKER),
)
if "PROMISE_STOCK" not in os.environ:
    attach(app)


@functools.cache
def ledger(_pid: int) -> redis.Redis:
    """A client for each process: a connection must not be shared over a fork."""
    return redis.Redis.from_url(os.environ["PROMISE_LEDGER"])


def note(what: str) -> None:
    """One line in the ledger."""
    pid, request = os.getpid(), current_task.request
    ledger(pid).xadd(LEDGER_STREAM, {"what": what, "job": request.id, "worker": request.hostname, "pid": pid, "task": request.task})


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Note when the function begins and when it has returned; not when it raises or is killed."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        note("start")
        result = function(*args, **kwargs)
        note("end")
        return result

    return run


@app.task(name="noop")
@counted
def noop() -> None:
    """Nothing."""


@app.task(name="nap")
@counted
def nap(seconds: float) -> str:
    """Work that takes no processor time; returns the name of the worker that did it."""
    time.sleep(seconds)
    return str(current_task.request.hostname)


@app.task(name="add")
@counted
def add(a: int, b: int) -> int:
    return a + b


@app.task(name="total")
@counted
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="flaky", bind=True, max_retries=2)
@counted
def flaky(self: Any) -> int:
    """Succeeds at the third try."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return int(self.request.retries)


@app.task(name="knock", bind=True)
def knock(self: Any) -> int:
    """Retries once, when the ledger says so."""
    note("start")
    if not self.request.retries:
        ledger(os.getpid()).brpoplpush("retry now", "retry now", 60)
        raise self.retry(countdown=0)
    note("end")
    return int(self.request.retries)


@app.task(name="last_words", bind=True)
@counted
def last_words(self: Any, replace: bool, end: int) -> str:
    """Sends its retry, or what replaces it, and has its whole worker end, by this signal, before Celery can ack it."""
    if self.request.retries or self.request.replaced_task_nesting:
        return "done"
    try:
        if replace:
            self.replace(last_words.si(replace, end))
        self.retry(countdown=0)
    except (Ignore, Retry):
        os.kill(os.getppid(), end)
        time.sleep(60)  # this process is ended too, a little later
    return "never"


@app.task(name="poison")
@counted
def poison() -> None:
    """Kills the process it runs in, as the OOM killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="assassin")
@counted
def assassin() -> None:
    """Kills the whole worker, with all it runs."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # the kernel ends this process too, a little later


@app.task(name="pay", acks_late=False)
@counted
def pay(seconds: float) -> None:
    """Must never be repeated."""
    time.sleep(seconds)


@app.task(name="answer", bind=True)
@counted
def answer(self: Any) -> str:
    """Which version it ran; one in four jobs of the second version fails."""
    version = str(self.request.get("dispatch_model"))
    if version.endswith("@2") and int(self.request.id[0], 16) < 4:
        raise RuntimeError("a bug of the new version")
    return version
