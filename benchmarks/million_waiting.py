"""One million jobs waiting: what they cost the dispatcher and Redis.

1 KB Celery messages of 8 kinds, four workers that are full. Compared with the same cell while 1,000 wait: how long a tick of the
dispatcher takes when nothing changes (median of 200), and when 100 jobs have come and 100 have ended since the last; and how much memory
its process has. Beside it, Redis' bytes a job, and those of the same messages in plain Celery's list. The value is the ratio
of the busy ticks.

    python -m benchmarks.million_waiting [--jobs 1000000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

import redis

from benchmarks.dispatch_rate import message
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.clock import SystemClock
from dispatcher.core.admission.rules import Admission
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.dispatcher import new_token
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.lease_pipe import LeasePipe
from dispatcher.store.worker.worker_store import WorkerStore

LIMIT = 2.0
RSS_LIMIT_MB = 200.0
FEW = 1_000
KINDS = 8
WORKERS = 4
TICKS = 200
ARRIVALS = 100


def of_kind(number: int) -> bytes:
    """A message of 1 KB; its tenant is its kind, and has a lane of its own."""
    envelope = json.loads(message(number))
    envelope["headers"]["dispatch"] = {"tenant": f"t{number % KINDS}", "cost": 1.0}
    return json.dumps(envelope).encode()


def messages(first: int, count: int) -> Iterator[list[bytes]]:
    made = [of_kind(number) for number in range(first, first + min(count, 2_000))]
    for at in range(0, count, 2_000):
        # Only what tells two messages apart is new: a million are made in seconds.
        yield [raw.replace(b'"delivery_tag": "', b'"delivery_tag": "%07d' % at) for raw in made[: count - at]]


class Cell:
    """Workers that take and ack when told, and a dispatcher, in one process whose memory is the dispatcher's."""

    def __init__(self, url: str) -> None:
        self.client = connect(url, text=False, timeout_s=60)
        self.keys = Keys()
        text = connect(url, timeout_s=60)
        self.workers = [WorkerStore(text, self.keys, f"{number:012x}") for number in range(WORKERS)]
        self.pipes = [LeasePipe(text, self.keys, worker.epoch) for worker in self.workers]
        for number, worker in enumerate(self.workers):
            assert worker.register(Registration(f"w{number}@bench", "bench", number, ARRIVALS // WORKERS, tasks=("bench.job",)))
        self.dispatcher = make_dispatcher(
            DispatchStore(self.client, self.keys, new_token()), Settings(redis_url=url, probe_interval_s=0.0, lease_ttl_s=600.0),
            admission=Admission(routes={}, default_cost_s=1.0), clock=SystemClock(), rng=Random(1), emit=lambda event: None,
        )  # fmt: skip
        self._next = 10**8

    def admit_all(self) -> None:
        while cast("int", self.client.llen("dispatch")):
            self.dispatcher.step()

    def quiet_ms(self) -> float:
        """Nothing comes, nobody has room."""
        return median(self._tick_ms() for _ in range(TICKS))

    def busy_ms(self) -> float:
        """As many come as end, with each tick."""
        return median(self._change_and_tick_ms() for _ in range(TICKS))

    def _change_and_tick_ms(self) -> float:
        for worker, pipe in zip(self.workers, self.pipes, strict=True):
            ids = cast("list[bytes]", self.client.hkeys(self.keys.leases(worker.epoch)))
            if ids:
                pipe.ack([lease_id.decode() for lease_id in ids])
            self.client.delete(self.keys.worker_queue(worker.epoch))
            worker.heartbeat({"done": 0, "consume_age_ms": 0})
        self.client.lpush("dispatch", *next(messages(self._next, ARRIVALS)))
        self._next += ARRIVALS
        return self._tick_ms()

    def _tick_ms(self) -> float:
        began = time.perf_counter()
        self.dispatcher.step()
        return (time.perf_counter() - began) * 1000


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def serve(url: str, commands: Connection) -> None:
    """The dispatcher's process."""
    cell = Cell(url)
    while (command := commands.recv()) != "stop":
        commands.send(rss_mb() if command == "rss_mb" else getattr(cell, command)())


def used_bytes(client: redis.Redis) -> int:
    return int(cast("dict[str, Any]", client.info("memory"))["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    context, keys = multiprocessing.get_context("spawn"), Keys()
    ours, theirs = context.Pipe()

    def ask(command: str) -> Any:
        ours.send(command)
        return ours.recv()

    with private_redis() as url:
        client = connect(url, text=False, timeout_s=60)
        process = context.Process(target=serve, args=(url, theirs), daemon=True)
        process.start()
        ask("rss_mb")
        rows: list[dict[str, float]] = []
        empty_bytes, sent, list_bytes = used_bytes(client), 0, 0
        for jobs in (FEW, options.jobs):
            for part in messages(0 if jobs == FEW else 10**7, jobs - sent):
                before = used_bytes(client)
                client.lpush("dispatch", *part)
                list_bytes += used_bytes(client) - before
                ask("admit_all")
            sent = jobs
            waiting = cast("int", client.hlen(keys.messages))
            redis_bytes = (used_bytes(client) - empty_bytes) / waiting
            row = {"waiting": waiting, "quiet_ms": ask("quiet_ms"), "busy_ms": ask("busy_ms"), "rss_mb": ask("rss_mb")}
            rows.append(row)
            print(f"{waiting:9,d} waiting: a quiet tick {row['quiet_ms']:.2f} ms, a busy one {row['busy_ms']:.2f} ms;", end=" ")
            print(f"dispatcher {row['rss_mb']:.0f} MB; Redis {redis_bytes:,.0f} bytes a job, Celery {list_bytes / jobs:,.0f}", flush=True)
        ours.send("stop")
        process.join(10)
    few, many = rows
    ratio, quiet = many["busy_ms"] / few["busy_ms"], many["quiet_ms"] / few["quiet_ms"]
    finish(
        "million_waiting", value=ratio, limit=LIMIT, ok=max(ratio, quiet) <= LIMIT and many["rss_mb"] <= RSS_LIMIT_MB, runs=[ratio],
        quiet_ratio=round(quiet, 2),
        busy_ms=round(many["busy_ms"], 2), quiet_ms=round(many["quiet_ms"], 2), rss_mb=round(many["rss_mb"], 1),
        waiting=many["waiting"], redis_bytes_a_job=round(redis_bytes), celery_bytes_a_job=round(list_bytes / options.jobs),
    )  # fmt: skip


if __name__ == "__main__":
    main()
