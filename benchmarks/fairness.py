"""Two tenants that both have jobs waiting all the time, one of which sends ten times as many: what each is served.

Jobs of 50 ms on four slots of two real workers, half a minute for each pair of weights. Every window of 10 s is looked at, a second
apart: cost served to each, over its weight. The value is the furthest that the two are apart in any window, as a share of their mean;
beside it what plain Celery would serve (first come, first served: 10 : 1).

    python -m benchmarks.fairness [--seconds 30]
"""

from __future__ import annotations

import argparse
from typing import Final

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.core.facts.header import job_headers
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect

LIMIT: Final = 0.05
COST_S: Final = 0.05
SLOTS: Final = 4
SENT_RATIO: Final = 10
WINDOW_MS: Final = 10_000
WEIGHTS: Final = ((1, 1), (3, 1))


def serve(url: str, seconds: int, weights: tuple[int, int]) -> list[tuple[int, str]]:
    """(ended at ms, tenant) of every job that ended in so many seconds of both waiting."""
    from benchmarks.app import app

    client, keys = connect(url), Keys()
    few = round(seconds * SLOTS / COST_S * weights[1] / sum(weights) * 1.4)
    client.sadd(keys.paused, "*")
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for number in range(few * (SENT_RATIO + 1)):
            tenant = "few" if number % (SENT_RATIO + 1) == 0 else "many"
            app.send_task(
                "bench.served", args=(COST_S, tenant), connection=connection, headers=job_headers(tenant=tenant, cost=COST_S)
            )
    client.srem(keys.paused, "*")
    client.lpush(keys.wake, "1")

    def ended() -> list[tuple[int, str]]:
        return [(int(at), tenant) for at, tenant, _ in (line.split() for line in client.lrange("bench:served", 0, -1))]

    wait_for(lambda: client.llen("bench:served") > 0, 30)
    began_ms = ended()[0][0]
    wait_for(lambda: ended()[-1][0] - began_ms >= seconds * 1000, seconds + 30, 0.5)
    return [job for job in ended() if job[0] - began_ms <= seconds * 1000]


def furthest_apart(ended: list[tuple[int, str]], weights: tuple[int, int]) -> float:
    """Over all windows, of what was served to each for its weight: their difference over their mean."""
    first, last = ended[0][0], ended[-1][0]
    worst = 0.0
    for begin in range(first, last - WINDOW_MS + 1, 1000):
        served = {"many": 0.0, "few": 0.0}
        for at, tenant in ended:
            if begin <= at < begin + WINDOW_MS:
                served[tenant] += COST_S
        many, few = served["many"] / weights[0], served["few"] / weights[1]
        worst = max(worst, abs(many - few) / ((many + few) / 2))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    specs = [WorkerSpec(f"w{i}", SLOTS // 2, "threads") for i in range(2)]
    gaps = []
    with private_redis() as url:
        for weights in WEIGHTS:
            environ = {"DISPATCHER_TENANT_WEIGHTS": f"many={weights[0]},few={weights[1]}"}
            with fleet(url, specs, dispatched=True, environ=environ):
                ended = serve(url, options.seconds, weights)
            counts = {tenant: sum(job[1] == tenant for job in ended) for tenant in ("many", "few")}
            gaps.append(furthest_apart(ended, weights))
            print(f"weights {weights[0]}:{weights[1]}  {counts}  furthest apart in {WINDOW_MS // 1000} s: {gaps[-1]:.1%}", flush=True)
    finish("fairness", value=max(gaps), limit=LIMIT, ok=max(gaps) <= LIMIT, runs=gaps)


if __name__ == "__main__":
    main()
