"""What a decision costs: µs a job in fleets of 10 to 10,000 workers and with 1 to 10,000 lanes; and one tick over 1,000 of each.

The plan alone, with the default settings: 500 jobs to place, each fleet with room for at least 2,000; every plan is given views of its
own, as the live dispatcher makes them, so that nothing it could keep from the plan before is of use but what workers said once. Then
whole ticks of a real dispatcher over a real Redis, 1,000 lanes and 1,000 workers of one slot that have ended their jobs since the tick
before, so that each is given one (``batch_size``): Redis and the client (the two round trips, their Lua, replies into rows), the plan,
and the rest of Python. The value is the cost of a job with 10,000 workers over that with 10, one lane, each the best of its plans; ok
only if the median tick keeps its limit too.

    python -m benchmarks.decision_cost [--runs 5] [--strategy NAME]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from random import Random
from statistics import median
from typing import Any, Final

import redis
from msgspec import structs

from benchmarks.dispatch_rate import message
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.clock import SystemClock
from dispatcher.core.admission.rules import Admission
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.facts.lane import Lane, lane_name, size_class
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.dispatcher import new_token
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of
from dispatcher.store.keys import Keys
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import WorkerStore, new_epoch

GROWTH_LIMIT: Final = 6.0
TICK_LIMIT_MS: Final = 50.0
JOBS: Final = 500
ROOM: Final = 2_000
TENANTS: Final = 10
PLANS: Final = 15


def snapshot(workers: int, lanes: int, rng: Random) -> Snapshot:
    """Unlike workers, each with some leases; lanes of several sizes, ages and tenants."""
    slots = max(1, ROOM // workers)
    views = []
    for i in range(workers):
        leases = rng.randrange(2)
        views.append(
            WorkerView(
                epoch=f"e{i}", name=f"gpu{i}@host", concurrency=slots, weight=rng.choice((0.5, 1.0, 2.0, 4.0)), models=frozenset({"chat"}),
                tasks=frozenset({"bench.job"}), ingress=frozenset({"dispatch"}), leases=leases, leased_cost_ms=leases * 700, taken=leases,
                window=slots + leases,
            )
        )  # fmt: skip
    waiting = []
    for i in range(lanes):
        cost_ms = rng.choice((40, 300, 2_000, 9_000))
        slot = i // TENANTS if lanes > 1 else -1
        lane = Lane("dispatch", "bench.job", "chat", 0, size_class(cost_ms), tenant=f"t{i % TENANTS}", slot=slot)
        waiting.append(LaneView(lane_name(lane), lane, max(1, 2 * JOBS // lanes), cost_ms, 1_000_000 - rng.randrange(5_000), job=i))
    return Snapshot(1_000_000, True, frozenset(), tuple(waiting), tuple(views))


def plan_us(workers: int, lanes: int, settings: Settings, plans: int) -> float:
    """µs a job that was placed: the best of a few plans."""
    rng, policy, state = Random(7), policy_of(settings), PolicyState()
    seen = snapshot(workers, lanes, rng)
    costs_us = []
    for _ in range(plans):
        before = seen  # kept until the plan is over: to free the views of the tick before is no part of it
        seen = structs.replace(before, workers=tuple(structs.replace(worker) for worker in before.workers))
        began = time.perf_counter()
        decided = plan(seen, state, policy, rng=rng, jobs_max=JOBS)
        took = time.perf_counter() - began
        costs_us.append(took / max(1, sum(assign.count for assign in decided.assignments)) * 1e6)
        del before
    return min(costs_us)


class Timed:
    """Adds up how long calls take."""

    def __init__(self) -> None:
        self.ms = 0.0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                self.ms += (time.perf_counter() - began) * 1e3

        return timed


def tick_ms(url: str, *, workers: int, lanes: int, ticks: int, strategy: str) -> list[tuple[float, float, float]]:
    """(Redis, plan, the rest) of ticks in which every worker has room for one job, and every lane has some."""
    client, keys = connect(url, text=False, timeout_s=60), Keys()
    client.flushall()
    stores = [WorkerStore(connect(url), keys, new_epoch()) for _ in range(workers)]
    for i, store in enumerate(stores):
        store.register(Registration(f"stub{i}@bench", "bench", i, 1, weight=1.0 + i % 4, tasks=("bench.job",)))
        store.heartbeat({"done": 0})
    settings = Settings(redis_url=url, strategy=strategy, window_extra=0, window_hide_ms=0.0)
    leading = DispatchStore(client, keys, new_token())
    leader = make_dispatcher(
        leading, settings, admission=Admission(routes={}, default_cost_s=1.0), clock=SystemClock(), rng=Random(1),
        emit=lambda event: None,
    )  # fmt: skip
    leader.step()
    wanted = min(workers, settings.batch_size)
    fill(client, lanes, jobs=wanted * (ticks + 3) + 10 * lanes)
    while client.llen("dispatch"):
        leader.step()
    measured = []
    redis_time, plan_time = Timed(), Timed()
    leading.look = redis_time.wrap(leading.look)  # type: ignore[method-assign]
    leading.apply = redis_time.wrap(leading.apply)  # type: ignore[method-assign]
    leader.parts.planner.make = plan_time.wrap(leader.parts.planner.make)
    for tick in range(ticks):
        for store in stores:
            client.delete(keys.leases(store.epoch), keys.worker_queue(store.epoch))
            store.heartbeat({"done": tick + 1})
        redis_time.ms = plan_time.ms = 0.0
        began = time.perf_counter()
        report = leader.step()
        took = (time.perf_counter() - began) * 1e3
        if report.assigned < wanted:
            raise SystemExit(f"only {report.assigned} jobs were assigned: this is not the tick to measure")
        # The plan is made inside `apply`.
        measured.append((redis_time.ms - plan_time.ms, plan_time.ms, took - redis_time.ms))
    return measured


def fill(client: redis.Redis, lanes: int, *, jobs: int) -> None:
    """Jobs of many tenants wait at the ingress."""
    for at in range(0, jobs, 1000):
        raws = []
        for i in range(at, min(jobs, at + 1000)):
            said = b'"dispatch": {"tenant": "t%d", "cost": 0.5}, "lang"' % (i % lanes)
            raws.append(message(i).replace(b'"lang"', said, 1))
        client.lpush("dispatch", *raws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--strategy", default=Settings().strategy)
    options = parser.parse_args()
    settings = Settings(strategy=options.strategy)
    cost: dict[tuple[int, int], float] = {}
    growths = []
    for _ in range(options.runs):
        costs: dict[tuple[int, int], float] = {}
        for workers in (10, 100, 1_000, 10_000):
            for lanes in (1, 100, 10_000):
                costs[workers, lanes] = plan_us(workers, lanes, settings, PLANS)
                cost[workers, lanes] = min(costs[workers, lanes], cost.get((workers, lanes), costs[workers, lanes]))
        growths.append(costs[10_000, 1] / costs[10, 1])
    print(f"{'µs a job':>14}" + "".join(f"{lanes:>10,} lanes" for lanes in (1, 100, 10_000)))
    for workers in (10, 100, 1_000, 10_000):
        print(f"{workers:>6,} workers" + "".join(f"{cost[workers, lanes]:>16.1f}" for lanes in (1, 100, 10_000)))
    with private_redis() as url:
        ticks = tick_ms(url, workers=1_000, lanes=1_000, ticks=4 * options.runs, strategy=options.strategy)
    whole = sorted(sum(tick) for tick in ticks)
    middle = [median(part) for part in zip(*ticks, strict=True)]
    print(
        f"a tick over 1,000 workers and 1,000 lanes: Redis {middle[0]:.1f} ms, plan {middle[1]:.1f} ms,"
        f" the rest of Python {middle[2]:.1f} ms; together {median(whole):.1f} ms, worst {whole[-1]:.1f} ms"
    )
    value, tick = median(growths), median(whole)
    finish(
        "decision_cost",
        value=value,
        limit=GROWTH_LIMIT,
        ok=value <= GROWTH_LIMIT and tick <= TICK_LIMIT_MS,
        runs=growths,
        us_a_job={f"{workers} workers, {lanes} lanes": round(us, 2) for (workers, lanes), us in cost.items()},
        tick_ms=round(tick, 2),
        tick_limit_ms=TICK_LIMIT_MS,
        tick_parts_ms={name: round(part, 2) for name, part in zip(("redis", "plan", "python"), middle, strict=True)},
    )


if __name__ == "__main__":
    main()
