"""How many jobs a bad canary harms before it takes itself back. Real workers, real dispatcher, jobs of 20 ms at 100 a second.

The old version fails 1 % of its jobs, the new one 20 %; the new one gets 5 % of the jobs, guarded with the defaults but for its steps'
time. The value is how many jobs of the new version failed in all, to the last one that was still on its way when it was rolled
back; median over the runs. Beside it: how long that took, how many jobs the new version ran, whether any job was lost.

The limit is what the guard's test needs, and what runs on while it decides. The test may be wrong about a good version once in a
thousand rollouts, however often it looks: that takes 5 to 10 failures where the old version fails 1 %, seldom 13. Five jobs a second
are the canary's, one of which fails; a failure is told with the next beat, up to ``heartbeat_s``, is read within another, and the
change is heeded at once: 2 or 3 more. 20 leaves room for an unlucky draw; unguarded it would harm one job a
second for as long as nobody looks.

    python -m benchmarks.canary [--runs 3] [--rate 100] [--seed 1]
"""

from __future__ import annotations

import argparse
import os
import time
import uuid
from random import Random
from statistics import median
from typing import Any

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, outstanding, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.core.facts.header import job_headers
from dispatcher.core.rollout.aliases import POINTS, Rollout
from dispatcher.core.rollout.changes import GuardPlan, set_shares
from dispatcher.store.keys import Keys
from dispatcher.store.leader.rollout_store import RolloutStore
from dispatcher.store.redis_client.connection import connect

LIMIT = 20
OLD, NEW = "chat@1", "chat@2"
FAILS = {OLD: 0.01, NEW: 0.2}
SHARE = 500
JOB_S = 0.02
BEFORE_S = 3.0
AFTER_S = 3.0
PATIENCE_S = 180.0


def one_run(url: str, rate: float, rng: Random) -> dict[str, Any]:
    """Send at ``rate`` until the canary is rolled back, and a little longer; what came of it."""
    from benchmarks.app import app

    client, keys = connect(url), Keys()
    store = RolloutStore(client, keys)

    def change(shares: dict[str, int], guard: GuardPlan | None = None) -> None:
        seen = store.read().get("chat")
        assert store.change("chat", seen, set_shares(seen and seen.rollout, shares, store.now_ms(), guard=guard))

    change({OLD: POINTS})
    time.sleep(1.0)
    began = time.monotonic()
    sent, guarded, ended_at, began_ms = 0, False, None, 0
    rollout: Rollout | None = None
    with app.connection_for_write(url=celery_broker(url)) as connection:
        while ended_at is None or time.monotonic() < ended_at:
            now = time.monotonic() - began
            if now > PATIENCE_S:
                raise TimeoutError(f"not rolled back within {PATIENCE_S} s: {store.watches()}")
            if not guarded and now > BEFORE_S:
                change({NEW: SHARE}, GuardPlan(step_s=3600.0))
                guarded = True
                guard = store.read()["chat"].rollout.guard
                assert guard is not None
                began_ms = guard.began_ms
            while sent < now * rate:
                app.send_task(
                    "bench.answer", args=(JOB_S, FAILS), connection=connection, headers=job_headers(model="chat"),
                    task_id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                )  # fmt: skip
                sent += 1
            if guarded and ended_at is None and (rollout := store.read()["chat"].rollout).guard is None:
                ended_at = time.monotonic() + AFTER_S
            time.sleep(0.005)
    wait_for(lambda: outstanding(url) == 0, 30)
    counts = {name: int(number) for name, number in client.hgetall("bench:answers").items()}
    assert rollout is not None
    failed, done = (counts.get(f"{NEW} {how}", 0) for how in ("failed", "done"))
    return {
        "harmed": failed,
        "canary_jobs": failed + done,
        "took_s": (rollout.changed_ms - began_ms) / 1000,
        "sent": sent,
        "lost": sent - sum(counts.values()),
        "outcome": rollout.outcome,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["DISPATCHER_WORKER_MODELS"] = f"{OLD},{NEW}"
    workers = [WorkerSpec("w1", 4, "threads"), WorkerSpec("w2", 4, "threads")]
    results: list[dict[str, Any]] = []
    with private_redis() as url:
        for run in range(options.runs):
            with fleet(url, workers, dispatched=True):
                results.append(one_run(url, options.rate, Random(options.seed + run)))
            print(", ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    harmed = [float(result["harmed"]) for result in results]
    ok = max(harmed) <= LIMIT and not any(result["lost"] for result in results)
    more = {
        "took_s": [round(result["took_s"], 1) for result in results],
        "canary_jobs": [result["canary_jobs"] for result in results],
        "lost": sum(result["lost"] for result in results),
        "rate_jobs_per_s": options.rate,
    }
    finish("canary", value=median(harmed), limit=LIMIT, ok=ok, runs=harmed, **more)


if __name__ == "__main__":
    main()
