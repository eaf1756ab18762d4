"""Makespan on unlike workers: weights 4:2:1, equal concurrency, 700 jobs of cost 0.4 that sleep ``cost / weight``.

Beside it, on the same workers in the same run, plain Celery with its default prefetch, and with prefetch 1 and late acks. The value is
the makespan over the fluid bound: total cost ÷ total capacity.

    python -m benchmarks.mixed_fleet [--jobs 700] [--runs 1]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.core.facts.header import job_headers
from dispatcher.store.redis_client.connection import connect

LIMIT = 1.15
COST_S = 0.4
CONCURRENCY = 2
WEIGHTS = {"large": 4.0, "medium": 2.0, "small": 1.0}


def makespan_s(url: str, jobs: int) -> tuple[float, dict[str, int]]:
    """Seconds from the first send to the end of the last job, and jobs done by each worker."""
    from benchmarks.app import app

    client = connect(url)
    client.delete(*(f"bench:done:{name}" for name in WEIGHTS))
    began = time.perf_counter()
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for _ in range(jobs):
            app.send_task("bench.sleep", args=(COST_S,), connection=connection, headers=job_headers(cost=COST_S))

    def done() -> dict[str, int]:
        return {name: int(client.get(f"bench:done:{name}") or 0) for name in WEIGHTS}

    wait_for(lambda: sum(done().values()) >= jobs, 600, 0.01)
    return time.perf_counter() - began, done()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=700)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    specs = [WorkerSpec(name, CONCURRENCY, "prefork", weight) for name, weight in WEIGHTS.items()]
    bound_s = options.jobs * COST_S / (sum(WEIGHTS.values()) * CONCURRENCY)
    variants = {
        "dispatcher": {"dispatched": True},
        "plain Celery, prefetch 1, acks late": {"dispatched": False, "prefetch": 1, "acks_late": True},
        "plain Celery, default prefetch": {"dispatched": False, "prefetch": 4, "acks_late": False},
    }
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    print(f"bound: {options.jobs} jobs × {COST_S} s ÷ capacity {sum(WEIGHTS.values()) * CONCURRENCY:.0f} = {bound_s:.1f} s")
    with private_redis() as url:
        for _ in range(options.runs):
            for name, how in variants.items():
                with fleet(url, specs, **how):  # type: ignore[arg-type]
                    took, done = makespan_s(url, options.jobs)
                ratios[name].append(took / bound_s)
                shares = ", ".join(f"{worker} {count}" for worker, count in done.items())
                print(f"{name:38} {took:6.1f} s  {took / bound_s:5.2f} × bound   {shares}", flush=True)
    ours = ratios.pop("dispatcher")
    peers = {name.replace(", ", "_").replace(" ", "_"): round(median(values), 3) for name, values in ratios.items()}
    finish("mixed_fleet", value=median(ours), limit=LIMIT, ok=median(ours) <= LIMIT, runs=ours, **peers)


if __name__ == "__main__":
    main()
