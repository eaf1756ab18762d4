"""The Celery app that both versions run. It is copied into a folder of its own and imports what any version has: public names only.

``MIXED_BROKER`` is Celery's URL of the broker, ``MIXED_LEDGER`` redis-py's of the ledger, ``MIXED_ROLE`` what the process is. Every
process notes which files of `dispatcher` it runs, and every task each of its runs, before it does anything and when it has ended.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

import redis
from billiard.process import current_process
from celery import Celery, current_task

import dispatcher
from dispatcher.worker import attach

app = Celery("mixed", broker=os.environ["MIXED_BROKER"])
app.conf.update(
    task_default_queue="dispatch",
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
attach(app)


@functools.cache
def ledger(_pid: int) -> redis.Redis:
    """A client for each process: a connection must not be shared over a fork."""
    return redis.Redis.from_url(os.environ["MIXED_LEDGER"])


def note(what: str) -> None:
    """One line in the ledger: what, task id, retries, pid of the worker, and the file of `dispatcher` that this process runs."""
    pid, request = os.getpid(), current_task.request
    worker_pid = pid if current_process().name == "MainProcess" else os.getppid()
    ledger(pid).xadd("runs", {"line": f"{what} {request.id} {request.retries} {worker_pid} {dispatcher.__file__}"})


ledger(os.getpid()).hset("files", f"{os.environ['MIXED_ROLE']} {os.getpid()}", str(dispatcher.__file__))


@app.task(name="mixed.nap")
def nap(seconds: float) -> None:
    """Work that takes no processor time."""
    note("start")
    time.sleep(seconds)
    note("end")


@app.task(name="mixed.again", bind=True, max_retries=3)
def again(self: Any, seconds: float) -> None:
    """Work that succeeds at the second try; each try counts as a job of its own."""
    note("start")
    time.sleep(seconds)
    note("end")  # what comes after is Celery's
    if self.request.retries == 0:
        raise self.retry(countdown=0.3)
