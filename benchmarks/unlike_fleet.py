"""Makespan on workers whose speeds nobody configured: 8:4:2:1, one slot each, 1,000 jobs that sleep 0.8 s ÷ speed and declare no cost.

Weights and costs are left at their defaults, so that both must be learned while the jobs run. Beside it, on the same workers in the same
run, plain Celery with its default prefetch, and with prefetch 1 and late acks. The value is the makespan over the fluid bound: total
cost ÷ total speed; median over the runs.

The dispatcher records every plan. Each is made again from its snapshot and must be the same; and the simulator, running free with the
same settings on a fleet of those speeds, must give each worker the same share of the jobs within 3 points.

    python -m benchmarks.unlike_fleet [--jobs 1000] [--runs 1] [--no-peers]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median

import msgspec

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.core.choosing.strategies import strategy
from dispatcher.recording import replay
from dispatcher.settings import Settings
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import SimWorker
from dispatcher.simulation.world import World
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect

LIMIT = 1.10
SHARE_LIMIT_POINTS = 3.0
COST_S = 0.8
SPEEDS = {"w8": 8.0, "w4": 4.0, "w2": 2.0, "w1": 1.0}
VARIANTS = {
    "plain Celery, prefetch 1, acks late": {"dispatched": False, "prefetch": 1, "acks_late": True},
    "plain Celery, default prefetch": {"dispatched": False, "prefetch": 4, "acks_late": False},
}


def makespan_s(url: str, jobs: int) -> tuple[float, dict[str, int]]:
    """Seconds from the first send to the end of the last job, and jobs done by each worker."""
    from benchmarks.app import app

    client = connect(url)
    client.delete(*(f"bench:done:{name}" for name in SPEEDS))
    began = time.perf_counter()
    with app.connection_for_write(url=celery_broker(url)) as connection:
        for _ in range(jobs):
            app.send_task("bench.sleep", args=(COST_S,), connection=connection)

    def done() -> dict[str, int]:
        return {name: int(client.get(f"bench:done:{name}") or 0) for name in SPEEDS}

    wait_for(lambda: sum(done().values()) >= jobs, 600, 0.01)
    return time.perf_counter() - began, done()


def learned_speeds(url: str) -> dict[str, float]:
    """What the leader made of it, as multiples of the slowest."""
    saved = connect(url, text=False).hget(Keys().policy, "speeds")
    speeds = {name.partition("@")[0]: models.get("default", 1.0) for name, models in msgspec.json.decode(saved)["speeds"].items()}
    return {name: round(speeds[name] / speeds["w1"], 2) for name in SPEEDS}


def simulated_shares(jobs: int) -> dict[str, float]:
    """Percent of the jobs that each worker gets in the simulator."""
    settings = Settings()
    world = World(
        [SimJob(0.0, COST_S * 1000)] * jobs,
        [SimWorker(name, 1, speed) for name, speed in SPEEDS.items()],
        strategy=strategy(settings.strategy),
        settings=settings,
        rng=Random(1),
    )
    return {name: 100 * account.jobs / jobs for name, account in world.run().workers.items()}


def one_run(url: str, jobs: int, recording: Path) -> tuple[float, dict[str, int], dict[str, float]]:
    specs = [WorkerSpec(name, speed=speed) for name, speed in SPEEDS.items()]
    with fleet(url, specs, dispatched=True, options=("--record", str(recording))):
        took, done = makespan_s(url, jobs)
        return took, done, learned_speeds(url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="leave plain Celery out")
    options = parser.parse_args()
    jobs = options.jobs
    bound_s = jobs * COST_S / sum(SPEEDS.values())
    print(f"bound: {jobs} jobs × {COST_S} s ÷ speed {sum(SPEEDS.values()):.0f} = {bound_s:.1f} s")
    ours: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in ({} if options.no_peers else VARIANTS)}
    plans = same = 0
    off_points = 0.0
    simulated = simulated_shares(jobs)

    def show(name: str, took: float, done: dict[str, int]) -> None:
        shares = ", ".join(f"{worker} {100 * count / jobs:.1f} %" for worker, count in done.items())
        print(f"{name:38} {took:6.1f} s  {took / bound_s:5.2f} × bound   {shares}", flush=True)

    with private_redis() as url, tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs):
            recording = Path(folder) / f"plans-{run}"
            took, done, speeds = one_run(url, jobs, recording)
            ours.append(took / bound_s)
            show("dispatcher", took, done)
            print(f"{'speeds learned, w1 being 1':38} {', '.join(f'{name} {speed}' for name, speed in speeds.items())}")
            again = replay(recording)
            plans, same = plans + again.plans, same + again.same
            off_points = max(off_points, *(abs(100 * done[name] / jobs - simulated[name]) for name in SPEEDS))
            for name, ratios in peers.items():
                with fleet(url, [WorkerSpec(worker, speed=speed) for worker, speed in SPEEDS.items()], **VARIANTS[name]):  # type: ignore[arg-type]
                    took, done = makespan_s(url, jobs)
                ratios.append(took / bound_s)
                show(name, took, done)
    print(f"{'simulator':38} shares {', '.join(f'{name} {share:.1f} %' for name, share in simulated.items())}")
    print(f"{same} of {plans} recorded plans are the same when made again; shares are off by at most {off_points:.1f} points")
    finish(
        "unlike_fleet",
        value=median(ours),
        limit=LIMIT,
        ok=median(ours) <= LIMIT and same == plans and off_points <= SHARE_LIMIT_POINTS,
        runs=ours,
        replayed_same=same,
        replayed=plans,
        share_off_points=round(off_points, 2),
        **{name.replace(", ", "_").replace(" ", "_"): round(median(ratios), 3) for name, ratios in peers.items()},
    )


if __name__ == "__main__":
    main()
