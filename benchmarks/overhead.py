"""What dispatching costs a small cluster: submit→start latency on an idle one, and no-op throughput, beside plain Celery.

One worker (prefork, then threads), acks late and prefetch 1 on both sides, each side with a Redis of its own, measured in turn:
medians over interleaved pairs, because one side alone varies twofold in ten minutes on a shared machine.

    python -m benchmarks.overhead [--pairs 7] [--jobs 2000]
"""

from __future__ import annotations

import argparse
import time
from statistics import median, quantiles

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, outstanding, wait_for
from benchmarks.dispatch_rate import message
from benchmarks.private_redis import private_redis, redis_version
from benchmarks.result import finish
from dispatcher.store.redis_client.connection import connect

LATENCY_RATIO_MAX = 1.5
THROUGHPUT_RATIO_MIN = {"prefork": 0.85, "threads": 0.95}


def latency_ms(url: str, samples: int) -> tuple[float, float]:
    """(p50, p99) from ``send_task`` to the first line of the task, one job at a time."""
    from benchmarks.app import app

    client = connect(url)
    client.delete("bench:latency")
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for number in range(samples):
            app.send_task("bench.started", args=(time.time(),), connection=connection)
            wait_for(lambda expected=number + 1: client.llen("bench:latency") >= expected, 10, 0.002)
            wait_for(lambda: outstanding(url) == 0, 10, 0.002)
    latencies_ms = sorted(float(latency_s) * 1000 for latency_s in client.lrange("bench:latency", 0, -1))
    return median(latencies_ms), quantiles(latencies_ms, n=100)[98]


def jobs_per_s(url: str, messages: list[bytes]) -> float:
    """No-op jobs a second, from a full queue to an empty one."""
    client = connect(url, text=False)
    began = time.perf_counter()
    client.lpush("dispatch", *messages)
    wait_for(lambda: outstanding(url) == 0, 120)
    return len(messages) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=100, help="latency samples a pair")
    parser.add_argument("--pools", default="prefork,threads")
    options = parser.parse_args()
    messages = [message(number) for number in range(options.jobs)]
    runs: list[float] = []
    figures: dict[str, object] = {}
    ok = True
    for pool in options.pools.split(","):
        spec = [WorkerSpec("w", concurrency=2, pool=pool)]
        latencies, throughputs = [], []
        with (
            private_redis() as ours,
            private_redis() as plain,
            fleet(ours, spec, dispatched=True),
            fleet(plain, spec, dispatched=False),
        ):
            for pair in range(options.pairs):
                sides = (ours, plain) if pair % 2 == 0 else (plain, ours)
                measured = {url: (latency_ms(url, options.samples), jobs_per_s(url, messages)) for url in sides}
                (l50, l99), rate = measured[ours]
                (p50, p99), plain_rate = measured[plain]
                latencies.append(l50 / p50)
                throughputs.append(rate / plain_rate)
                print(
                    f"{pool:8} latency p50 {l50:5.2f} ms (plain {p50:5.2f}), p99 {l99:6.2f} ({p99:6.2f});"
                    f" no-op {rate:6.0f} jobs/s (plain {plain_rate:6.0f}), ratio {rate / plain_rate:.3f}",
                    flush=True,
                )
        figures[f"{pool}_latency_p50_ratio"] = round(median(latencies), 3)
        figures[f"{pool}_throughput_ratio"] = round(median(throughputs), 3)
        ok = ok and median(latencies) <= LATENCY_RATIO_MAX and median(throughputs) >= THROUGHPUT_RATIO_MIN[pool]
        runs += throughputs
    value = max(float(str(v)) for k, v in figures.items() if k.endswith("latency_p50_ratio"))
    figures["redis"] = redis_version()
    finish("overhead", value=value, limit=LATENCY_RATIO_MAX, ok=ok, runs=runs, throughput_limits=THROUGHPUT_RATIO_MIN, **figures)


if __name__ == "__main__":
    main()
