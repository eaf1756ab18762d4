"""The Celery app that is fought over, dispatched (``BATTLE_DISPATCHED=1``) or plain, with the same tasks and settings.

``BATTLE_BROKER`` and ``BATTLE_LEDGER`` are redis-py URLs. The ledger is a Redis of its own, which no fault touches: every run of a task
is written there by the process that runs it, before it does anything and when it has ended.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

import redis
from billiard.process import current_process
from celery import Celery, current_task
from celery.backends.rpc import RPCBackend

from benchmarks.battle.ledger import STREAM
from benchmarks.battle.odd import register_values
from dispatcher.core.facts.header import ALONE_HEADER
from dispatcher.store.redis_client.connection import celery_url
from dispatcher.worker import attach
from workers.apart import run_apart
from workers.chunk import run_chunk
from workers.runtimes import LoadedRuntimes

BROKER = os.environ.get("BATTLE_BROKER", "redis://127.0.0.1:6379/0")
DISPATCHED = os.environ.get("BATTLE_DISPATCHED") == "1"
VISIBILITY_S = float(os.environ.get("BATTLE_VISIBILITY_S", "0"))

app = Celery("battle", broker=celery_url(BROKER))
app.conf.update(
    result_backend=celery_url(BROKER.replace("db=0", "db=1")),
    task_default_queue="dispatch",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    # The scaled visibility timeout also has its sweep scaled: by default one in ten of those that come every 10 s looks at anything.
    broker_transport_options=(
        {"visibility_timeout": VISIBILITY_S, "unacked_restore_interval": 1, "unacked_restore_throttle": 1} if VISIBILITY_S else {}
    ),
)
if DISPATCHED:
    attach(app)
register_values()
runtimes = LoadedRuntimes()


@functools.cache
def _ledger(_pid: int) -> tuple[redis.Redis, int]:
    """A client for each process, for a connection must not be shared over a fork; and the pid of the worker that it is part of."""
    in_child = current_process().name != "MainProcess"
    return redis.Redis.from_url(os.environ["BATTLE_LEDGER"]), os.getppid() if in_child else os.getpid()


def note(what: str) -> None:
    """One line in the ledger: what, task id, retries, node name, pid, pid of the worker."""
    pid, request = os.getpid(), current_task.request
    client, worker_pid = _ledger(pid)
    client.xadd(STREAM, {"e": f"{what} {request.id} {request.retries} {request.hostname} {pid} {worker_pid}"})


@app.task(name="battle.noop", ignore_result=True)
def noop() -> None:
    """Nothing."""
    note("start")
    note("end")


@app.task(name="battle.nap", ignore_result=True)
def nap(seconds: float) -> None:
    """Work that takes no processor time."""
    note("start")
    time.sleep(seconds)
    note("end")


@app.task(name="battle.part")
def part(number: int) -> int:
    """A header of a chord."""
    note("start")
    time.sleep(0.01)
    note("end")
    return number


@app.task(name="battle.total", ignore_result=True)
def total(numbers: list[int]) -> None:
    """The body of a chord."""
    note("start")
    assert sorted(numbers) == list(range(len(numbers))), numbers
    note("end")


@app.task(name="battle.again", bind=True, ignore_result=True, max_retries=9)
def again(self: Any, times: int) -> None:
    """Succeeds after so many retries; each counts as a job of its own."""
    note("start")
    retries = self.request.retries
    if retries < times:
        # Noted before: what comes after is Celery's.
        note("end")
        raise self.retry(countdown=0.2 * retries)
    note("end")


@app.task(name="battle.odd")
def odd(*_: object) -> None:
    """No worker can begin it."""
    note("start")


@app.task(name="battle.told", backend=RPCBackend(app))
def told() -> None:
    """The same, and its result goes to where its sender asked."""
    note("start")


@app.task(name="workers.tasks.infer", bind=True)
def infer(self: Any, chunk: dict[str, Any]) -> dict[str, Any]:
    """As the ready-made app's, of a batch with lines that kill."""
    run_again = bool(self.request.get(ALONE_HEADER))
    task_id = str(self.request.id)
    result = run_apart(chunk, request_id=task_id) if run_again else run_chunk(chunk, runtimes, request_id=task_id)
    return result | {"worker": self.request.hostname, "busy_ms": 0}
