"""A prefork pool whose worker loses its connection right after the only process has died of reading a job: prints what became of the
job.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop

from dispatcher.worker.leasing.consumer import LeaseConsumerMixin
from dispatcher.worker.leasing.pool import lease_pool
from tests.unsendable import Deadly

PATIENCE_S = 30


def main() -> None:
    hub = Hub()
    set_event_loop(hub)
    pool = lease_pool(TaskPool).Pool(processes=1, sched_strategy=4, threads=False)
    pool.register_with_event_loop(hub)
    (process,) = pool._pool
    said: list[str] = []
    loop = hub.create_loop()

    def until(holds: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds() and time.monotonic() < deadline:
            next(loop)

    job = pool.apply_async(
        abs, (Deadly(),), correlation_id="job", error_callback=lambda error: said.append(str(error.exception.exc))
    )
    until(lambda: job._write_to is not None and not pool._active_writes)
    process._popen.wait(PATIENCE_S)

    LeaseConsumerMixin.on_close(SimpleNamespace(pool=SimpleNamespace(_pool=pool, flush=pool.flush)))
    pool.register_with_event_loop(hub)
    until(lambda: said)
    print(*said, flush=True)
    for process in pool._pool:
        process.terminate()
    os._exit(0)  # the pool would wait for a loop that has ended


main()
