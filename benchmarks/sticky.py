"""Sessions on four workers of four slots at 70 % load: how often a job comes to the worker that had its session's job before.

400 sessions, Poisson arrivals, jobs of 250 ms, real workers; once with ``sticky = off``, once with ``prefer``, so that what the holds
cost in waiting is seen. Then one of the four is killed: of the sessions that the other three had, how many move. The value is the hit
rate with ``prefer``; ok only if the moves keep their limit.

    python -m benchmarks.sticky [--seconds 40] [--load 0.7]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from dataclasses import dataclass
from random import Random
from statistics import mean
from typing import Final

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, wait_for
from benchmarks.support import finish, private_redis
from dispatcher.core.job import job_headers
from dispatcher.store.connection import connect
from dispatcher.store.keys import Keys

LIMIT: Final = 0.95
MOVED_LIMIT: Final = 0.02
COST_S: Final = 0.25
WORKERS: Final = 4
SLOTS: Final = 4
SESSIONS: Final = 400


@dataclass(frozen=True, slots=True)
class Served:
    """One job: of which session, by which worker, and when it was sent and begun, in ms."""

    session: str
    worker: str
    sent_ms: float
    begun_ms: float


def offer(url: str, seconds: float, load: float, rng: Random) -> list[Served]:
    """Send for so long; what was served, in the order of sending, once all of it is done."""
    from benchmarks.app import app

    client = connect(url)
    client.delete("bench:told")
    rate = load * WORKERS * SLOTS / COST_S
    sent = 0
    with app.connection_for_write(url=celery_broker(url)) as connection:
        began = due = time.monotonic()
        while due - began < seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            session = f"s{rng.randrange(SESSIONS)}"
            app.send_task(
                "bench.told", args=(COST_S, f"{session}:{time.monotonic() * 1000:.0f}"), connection=connection,
                headers=job_headers(session=session, cost=COST_S),
            )  # fmt: skip
            sent += 1
            due += rng.expovariate(rate)
    wait_for(lambda: client.llen("bench:told") >= sent, 60)
    found = []
    for line in client.lrange("bench:told", 0, -1):
        ended, whose, worker = line.split()
        session, _, at = whose.partition(":")
        found.append(Served(session, worker, float(at), float(ended) - COST_S * 1000))
    return sorted(found, key=lambda one: one.sent_ms)


def hit_rate(served: list[Served]) -> float:
    """Share of jobs, of those whose session had one before, that came to the worker of that one."""
    had: dict[str, str] = {}
    hits = total = 0
    for one in served:
        if one.session in had:
            total += 1
            hits += had[one.session] == one.worker
        had[one.session] = one.worker
    return hits / total


def kill_one(url: str) -> str:
    """SIGKILL of a worker; its name."""
    client, keys = connect(url), Keys()
    for epoch in client.smembers(keys.workers):
        said = json.loads(client.hget(keys.worker(epoch), "registration"))
        if said["name"].startswith("w0@"):
            os.kill(said["pid"], signal.SIGKILL)
            wait_for(lambda gone=epoch: client.sismember(keys.workers, gone) == 0, 30)  # type: ignore[misc]
            return "w0"
    raise LookupError("no worker w0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--load", type=float, default=0.7)
    options = parser.parse_args()
    specs = [WorkerSpec(f"w{i}", SLOTS, "threads") for i in range(WORKERS)]
    rates, waits = {}, {}
    moved = 1.0
    with private_redis() as url:
        for mode in ("off", "prefer"):
            with fleet(url, specs, dispatched=True, environ={"DISPATCHER_STICKY": mode}):
                served = offer(url, options.seconds, options.load, Random(1))
                rates[mode], waits[mode] = hit_rate(served), mean(one.begun_ms - one.sent_ms for one in served)
                print(f"sticky {mode:7} hit rate {rates[mode]:.3f}  mean wait {waits[mode]:6.1f} ms  {len(served)} jobs", flush=True)
                if mode == "prefer":
                    last = {one.session: one.worker for one in served}
                    gone = kill_one(url)
                    first: dict[str, str] = {}
                    for one in offer(url, options.seconds / 2, options.load * (WORKERS - 1) / WORKERS, Random(2)):
                        first.setdefault(one.session, one.worker)
                    stayed = [session for session, worker in last.items() if worker != gone and session in first]
                    moved = sum(first[session] != last[session] for session in stayed) / len(stayed)
                    print(f"after {gone} was killed: {moved:.1%} of the {len(stayed)} sessions of the others moved", flush=True)
    finish(
        "sticky", value=rates["prefer"], limit=LIMIT, ok=rates["prefer"] >= LIMIT and moved <= MOVED_LIMIT, runs=[rates["prefer"]],
        hit_rate_off=round(rates["off"], 4), mean_wait_ms={mode: round(wait, 1) for mode, wait in waits.items()}, moved=round(moved, 4),
        moved_limit=MOVED_LIMIT,
    )  # fmt: skip


if __name__ == "__main__":
    main()
