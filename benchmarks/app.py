"""The Celery app that benchmarks run twice: as it is, and attached (``BENCH_DISPATCHED=1``). Both with the same settings.

``BENCH_REDIS_URL`` is the broker. Tasks: ``bench.job`` does nothing, ``bench.started`` notes when it began, ``bench.sleep`` takes
``cost / weight`` seconds, the weight being the worker's (``BENCH_WEIGHT``); ``bench.served`` sleeps so long and notes
who had it; ``bench.noted`` notes in database 1 that it began; ``bench.answer`` fails as often as its version does; ``bench.faulty``
does its work until its worker is told of a fault.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_ready

from dispatcher.store.redis_client.connection import celery_url, client_url
from dispatcher.worker import attach

URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("bench", broker=celery_url(URL))
app.conf.update(
    task_default_queue="dispatch",
    task_ignore_result=True,
    task_acks_late=os.environ.get("BENCH_ACKS_LATE", "1") == "1",
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "1")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
)
if os.environ.get("BENCH_DISPATCHED") == "1":
    attach(app)


@cache
def ledger() -> redis.Redis:
    """A client of the process that runs the task."""
    return redis.Redis.from_url(client_url(URL))


@app.task(name="bench.job")
def job(number: int, pad: str = "") -> None:
    """Nothing."""


@app.task(name="bench.started")
def started(sent_at: float) -> None:
    """Note how long it took to get here, in seconds."""
    took = time.time() - sent_at
    ledger().rpush("bench:latency", took)


@app.task(name="bench.sleep")
def sleep(cost: float) -> None:
    """Work of ``cost`` seconds on a worker of weight 1."""
    time.sleep(cost / float(os.environ.get("BENCH_WEIGHT", "1")))
    ledger().incr(f"bench:done:{os.environ.get('BENCH_NAME', '')}")


@app.task(name="bench.answer", bind=True)
def answer(self: Any, seconds: float, fails: dict[str, float]) -> None:
    """Work of ``seconds`` that fails as often as ``fails`` says of the version it was given; which jobs do follows from their ids."""
    version = str(self.request.get("dispatch_model"))
    time.sleep(seconds)
    failed = int(self.request.id[:8], 16) / 2**32 < fails.get(version, 0.0)
    ledger().hincrby("bench:answers", f"{version} {'failed' if failed else 'done'}")
    if failed:
        raise RuntimeError("a bug of this version")


@app.task(name="bench.served")
def served(cost: float, whose: str) -> None:
    """Work of ``cost`` seconds on any worker; then note for whom it was, where, and when it ended, in ms of this machine's clock."""
    time.sleep(cost)
    ledger().rpush("bench:served", f"{time.monotonic() * 1000:.0f} {whose} {os.environ.get('BENCH_NAME', '')}")


@app.task(name="bench.noted")
def noted(number: int, seconds: float) -> None:
    """Note that the job began, in a database apart, which no dispatcher knows; then work."""
    noted_in().xadd("bench:ran", {"number": number})
    time.sleep(seconds)


@cache
def noted_in() -> redis.Redis:
    """Where ``bench.noted`` writes: database 1 of the same server."""
    return redis.Redis.from_url(client_url(URL).replace("db=0", "db=1"))


_consumers: list[Any] = []
_hung: list[bool] = []


@worker_ready.connect
def _remember(sender: Any = None, **_: Any) -> None:
    """The consumer, whose event loop one of the faults stops."""
    _consumers.append(sender)


@app.task(name="bench.faulty")
def faulty(number: int, sent_at: float, seconds: float) -> None:
    """Work of ``seconds``, unless ``bench:fault:<worker>`` names a fault; then note who did it, from when to when, and how it went."""
    name = os.environ.get("BENCH_NAME", "")
    fault, _, span_s = (ledger().get(f"bench:fault:{name}") or b"").decode().partition(" ")
    began_at = time.time()
    try:
        if fault == "fails":
            raise RuntimeError("everything fails here")
        if fault == "model":
            time.sleep(0.5)  # what it takes to find out that the weights are broken
            raise RuntimeError("the model does not load")
        if fault == "hangs" and not _hung:
            _hung.append(True)
            _consumers[0].hub.call_soon(time.sleep, float(span_s))
        time.sleep(seconds * (10 if fault == "slow" else 1))
    except RuntimeError:
        ledger().rpush("bench:faulty", f"{number} {name} {sent_at} {began_at} {time.time()} failed")
        raise
    ledger().rpush("bench:faulty", f"{number} {name} {sent_at} {began_at} {time.time()} done")
