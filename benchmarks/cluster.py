"""Real workers and a real dispatcher as processes, for benchmarks: started, waited for, and stopped without trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker process. ``weight`` is what it says of its speed; ``speed`` what that is, where it is not the same."""

    name: str
    concurrency: int = 1
    pool: str = "prefork"
    weight: float = 1.0
    speed: float | None = None


def wait_for(what: Callable[[], bool], timeout_s: float, pause_s: float = 0.005) -> None:
    """Poll until ``what``; TimeoutError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s in vain")
        time.sleep(pause_s)


@contextmanager
def fleet(
    url: str, workers: Sequence[WorkerSpec], *, dispatched: bool, prefetch: int = 1, acks_late: bool = True,
    environ: Mapping[str, str] | None = None, options: Sequence[str] = (), dispatchers: int = 1,
) -> Iterator[None]:  # fmt: skip
    """Those workers on ``url``; with ``dispatched``, a dispatcher and attached workers, else plain Celery.

    ``environ``: settings, in the environment of all of them. ``options``: of `dispatcher run`. ``dispatchers``: 0 where the caller has
    started some.
    """
    base = os.environ | dict(environ or {}) | {
        "BENCH_REDIS_URL": url,
        "BENCH_DISPATCHED": "1" if dispatched else "0",
        "BENCH_PREFETCH": str(prefetch),
        "BENCH_ACKS_LATE": "1" if acks_late else "0",
        "DISPATCHER_REDIS_URL": url,
    }
    client, keys = connect(url), Keys()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(dispatchers if dispatched else 0):
            command = [sys.executable, "-m", "dispatcher", "-A", "benchmarks.app", "run", *options]
            processes.append(subprocess.Popen(command, env=base, **QUIET, start_new_session=True))
        for spec in workers:
            command = [
                sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker", "-n", f"{spec.name}@bench", "-l", "error",
                "-c", str(spec.concurrency), "-P", spec.pool, "--without-gossip", "--without-mingle",
            ]  # fmt: skip
            if dispatched:
                command += ["--weight", str(spec.weight)]
            own = base | {"BENCH_WEIGHT": str(spec.speed or spec.weight), "BENCH_NAME": spec.name}
            processes.append(subprocess.Popen(command, env=own, **QUIET, start_new_session=True))
        if dispatched:
            wait_for(lambda: client.scard(keys.workers) == len(workers) and client.exists(keys.leader) == 1, 60)
        warm_up(url, len(workers))
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        client.flushall()


def warm_up(url: str, workers: int) -> None:
    """Run a few jobs, so that every process has imported what it needs."""
    from benchmarks.app import app

    client = connect(url)
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for _ in range(40 * workers):
            app.send_task("bench.started", args=(time.time(),), connection=connection)
    wait_for(lambda: client.llen("bench:latency") >= 40 * workers, 60)
    wait_for(lambda: outstanding(url) == 0, 30)
    client.delete("bench:latency")


def celery_broker(url: str) -> str:
    """``url`` as kombu spells it."""
    from dispatcher.store.redis_client.connection import celery_url

    return celery_url(url)


def outstanding(url: str) -> int:
    """Jobs that were sent and are not acked, in plain Celery or in the dispatcher's keeping."""
    with connect(url).pipeline(transaction=False) as pipe:
        pipe.llen("dispatch")
        pipe.hlen("unacked")
        pipe.hlen(Keys().messages)
        return sum(pipe.execute())
