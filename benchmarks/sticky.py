"""Sessions on four workers of four slots at 70 % load: how often a job comes to the worker that had its session's job before.

400 sessions, Poisson arrivals, jobs of 250 ms, real workers; once with ``sticky = off``, once with ``prefer``, so that what the holds
cost in waiting is seen. Then one of the four is killed: of the sessions that the other three had, how many move. The value is the hit
rate with ``prefer``; ok only if the moves keep their limit.

Beside it the same arrivals in the simulator, and what length does there: jobs four times as long and of unlike length, at the same load.
A job leaves its session's worker where another would be done ``sticky_wait_s`` sooner, which is a wait of eight jobs of 250 ms, and of
two of 1 s: whose jobs are long sets it to three or four of them.

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
from typing import Any, Final

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.core.choosing.strategies import strategy
from dispatcher.core.facts.header import job_headers
from dispatcher.settings import Settings
from dispatcher.simulation.caches import CacheSizes
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import SimWorker
from dispatcher.simulation.world import World
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect

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
    client.delete("bench:served")
    rate = load * WORKERS * SLOTS / COST_S
    sent = 0
    with app.connection_for_write(url=celery_broker(url)) as connection:
        began = due = time.monotonic()
        while due - began < seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            session = f"s{rng.randrange(SESSIONS)}"
            app.send_task(
                "bench.served", args=(COST_S, f"{session}:{time.monotonic() * 1000:.0f}"), connection=connection,
                headers=job_headers(session=session, cost=COST_S),
            )  # fmt: skip
            sent += 1
            due += rng.expovariate(rate)
    wait_for(lambda: client.llen("bench:served") >= sent, 60)
    served = []
    for line in client.lrange("bench:served", 0, -1):
        ended, whose, worker = line.split()
        session, _, at = whose.partition(":")
        served.append(Served(session, worker, float(at), float(ended) - COST_S * 1000))
    return sorted(served, key=lambda job: job.sent_ms)


def hit_rate(served: list[Served]) -> float:
    """The share of a session's jobs, after its first, that came to the same worker as the job before."""
    had: dict[str, str] = {}
    hits = total = 0
    for job in served:
        if job.session in had:
            total += 1
            hits += had[job.session] == job.worker
        had[job.session] = job.worker
    return hits / total


def simulated(
    mode: str, seconds: float, load: float, mean_s: float = COST_S, *, alike: bool = True, **settings: Any
) -> tuple[float, float]:
    """Hit rate and mean wait in ms of the same arrivals in the simulator; ``alike`` False: of jobs of exponential length."""
    rng, lengths, jobs, due = Random(1), Random(2), [], 0.0
    while due < seconds:
        session = f"s{rng.randrange(SESSIONS)}"
        jobs.append(SimJob(due * 1000, 1000 * (mean_s if alike else lengths.expovariate(1 / mean_s)), session=session))
        due += rng.expovariate(load * WORKERS * SLOTS / mean_s)
    workers = [SimWorker(f"w{i}@bench", SLOTS) for i in range(WORKERS)]
    chosen = Settings(sticky=mode, **settings)
    world = World(
        jobs, workers, strategy=strategy(chosen.strategy), settings=chosen, rng=Random(0), caches=CacheSizes(sessions=len(jobs))
    )
    outcome = world.run()
    return outcome.sessions.rate or 0.0, mean(took - job.cost_ms for took, job in zip(outcome.response_ms, jobs, strict=True))


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
                rates[mode], waits[mode] = hit_rate(served), mean(job.begun_ms - job.sent_ms for job in served)
                print(f"sticky {mode:7} hit rate {rates[mode]:.3f}  mean wait {waits[mode]:6.1f} ms  {len(served)} jobs", flush=True)
                if mode == "prefer":
                    last = {job.session: job.worker for job in served}
                    gone = kill_one(url)
                    first: dict[str, str] = {}
                    for job in offer(url, options.seconds / 2, options.load * (WORKERS - 1) / WORKERS, Random(2)):
                        first.setdefault(job.session, job.worker)
                    stayed = [session for session, worker in last.items() if worker != gone and session in first]
                    moved = sum(first[session] != last[session] for session in stayed) / len(stayed)
                    print(f"after {gone} was killed: {moved:.1%} of the {len(stayed)} sessions of the others moved", flush=True)
    twins = {mode: simulated(mode, options.seconds, options.load) for mode in rates}
    long = {f"{wait_s:g}": simulated("prefer", 2000, options.load, 1.0, alike=False, sticky_wait_s=wait_s) for wait_s in (2.0, 4.0)}
    for what, (rate, wait) in {**twins, **{f"prefer, jobs of 1 s, sticky_wait_s {wait_s}": pair for wait_s, pair in long.items()}}.items():
        print(f"simulated: sticky {what:40} hit rate {rate:.3f}  mean wait {wait:6.1f} ms")
    finish(
        "sticky", value=rates["prefer"], limit=LIMIT, ok=rates["prefer"] >= LIMIT and moved <= MOVED_LIMIT, runs=[rates["prefer"]],
        hit_rate_off=round(rates["off"], 4), mean_wait_ms={mode: round(wait, 1) for mode, wait in waits.items()}, moved=round(moved, 4),
        moved_limit=MOVED_LIMIT, simulated={mode: round(rate, 4) for mode, (rate, _) in twins.items()},
        simulated_long={wait_s: round(rate, 4) for wait_s, (rate, _) in long.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
