"""Prefix affinity with bounded caches: two Mooncake traces over 8 workers, each with an LRU cache of 2,048 blocks of 512 tokens.

A worker runs 8 requests at a time; a request is (uncached input / 8000 + 0.02 × output) seconds of work (assumed, not measured), of
which the dispatcher knows only what it would be with nothing cached. All settings are the defaults. Timestamps of the conversation
trace, which are rounded to 3 s, are spread by a seeded jitter, for all alike. Rates are of prompt blocks: cached where the request ran ÷
all. *Pooled* is one cache as large as the eight together, with LRU and with Belady's clairvoyant eviction: no router has to reach it.

Beside it NVIDIA Dynamo's own replay of the same files, on 8 workers of 16,384 blocks of 64 tokens: round robin, and its KV router over
several runs (no two are alike). Its service times are those of its own engine model, so hit rates compare and times do not. It runs
where ``DISPATCHER_DYNAMO`` names the folder that ``pip install --no-deps --target FOLDER ai-dynamo-runtime`` has filled.

A seed draws ties and names the workers. The value is the lowest block hit rate ÷ pooled LRU over both traces and all seeds; ok only if the
load imbalance (busiest worker ÷ mean) keeps its limit in every one of these runs. With fewer requests at a time (rows ``4 at a time``)
the fleet is short of slots, and a job leaves the worker that has its prefix where another would be done ``sticky_wait_s`` sooner: fewer
hits, and shorter waits.

    DISPATCHER_TRACES=FOLDER [DISPATCHER_DYNAMO=FOLDER] python -m benchmarks.mooncake_prefix [--seeds 5] [--concurrency 8]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Final

from benchmarks.result import finish
from dispatcher.core.choosing.strategies import strategy
from dispatcher.settings import Settings
from dispatcher.simulation.bounds import Bounds, bounds_of
from dispatcher.simulation.caches import CacheSizes
from dispatcher.simulation.report import Report, report
from dispatcher.simulation.traces import SimJob, jittered, read_trace
from dispatcher.simulation.workers import SimWorker
from dispatcher.simulation.world import World

OF_POOLED_LRU_LIMIT: Final = 0.9
IMBALANCE_LIMIT: Final = 1.25
WORKERS: Final = 8
CACHES: Final = CacheSizes(blocks=2048)
TRACES: Final = {"conversation": ("mooncake_conversation_first30min.jsonl.gz", 3_000.0), "synthetic": ("mooncake_synthetic.jsonl.gz", 0.0)}
DEFAULTS: Final = Settings()
WAYS: Final = {
    "round_robin, sticky off": replace(DEFAULTS, strategy="round_robin", sticky="off"),
    "least_work, sticky off": replace(DEFAULTS, strategy="least_work", sticky="off"),
    "earliest_completion, sticky off": replace(DEFAULTS, sticky="off"),
    "least_work, sticky prefer": replace(DEFAULTS, strategy="least_work"),
    "least_connections, sticky prefer": replace(DEFAULTS, strategy="least_connections"),
    "earliest_completion, sticky require": replace(DEFAULTS, sticky="require"),
}
DYNAMO: Final = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dynamo._core import run_mocker_trace_replay
made = run_mocker_trace_replay([sys.argv[2]], num_workers=8, router_mode=sys.argv[3], trace_block_size=512, capture_per_request=True)
busy = {}
for request in made.per_request:
    worker = request["decode_worker_idx"]
    busy[worker] = busy.get(worker, 0.0) + request["terminal_time_ms"] - request["first_admit_ms"]
reused = sum(request["reused_input_tokens"] for request in made.per_request)
reused /= sum(request["input_length"] for request in made.per_request)
print(json.dumps({"reused": reused, "imbalance": max(busy.values()) * 8 / sum(busy.values())}))
"""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, and what bounds it on this fleet."""

    name: str
    jobs: list[SimJob]
    bounds: Bounds


def run(trace: Trace, settings: Settings, *, seed: int, concurrency: int) -> Report:
    """One run. The seed draws ties and names the workers, and so says which slots each is home to."""
    fleet = [SimWorker(f"seed{seed}-worker{number + 1}", concurrency) for number in range(WORKERS)]
    chosen = strategy(settings.strategy)
    world = World(trace.jobs, fleet, strategy=chosen, settings=settings, rng=Random(seed), caches=CACHES)
    return report(chosen.name, trace.jobs, fleet, world.run(), trace.bounds)


def show(what: str, hit_rate: float, lru_rate: float, imbalance: float | None = None, more: str = "") -> None:
    evenness = "" if imbalance is None else f"  imbalance {imbalance:.3f}"
    print(f"  {what:38} block hits {hit_rate:6.2%}  ÷ pooled LRU {hit_rate / lru_rate:5.3f}{evenness}{more}", flush=True)


def dynamo(trace: Trace, mode: str, folder: str) -> dict[str, Any]:
    """One replay by Dynamo, in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(_mooncake_lines(trace.jobs))
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", DYNAMO, folder, file.name, mode],
            stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "DYN_LOG": "error"},
        )  # fmt: skip
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def _mooncake_lines(jobs: Sequence[SimJob]) -> Iterator[str]:
    for job in jobs:
        tokens_in, tokens_out = round(job.prompt_ms * 8), round((job.cost_ms - job.prompt_ms) / 20)
        row = {"timestamp": round(job.at_ms), "input_length": tokens_in, "output_length": tokens_out, "hash_ids": job.prefix}
        yield json.dumps(row) + "\n"


def compare(trace: Trace, *, seeds: int, concurrency: int, folder: str | None) -> list[Report]:
    """Print the table of one trace; the runs with the defaults."""
    bounds = trace.bounds
    lru, belady = bounds.lru_rate or 0.0, bounds.belady_rate or 0.0
    print(f"{trace.name}: {len(trace.jobs)} requests")
    for what, settings in WAYS.items():
        _show_run(what, run(trace, settings, seed=1, concurrency=concurrency), lru)
    for fewer in (4, 6):
        _show_run(f"the defaults, {fewer} at a time", run(trace, DEFAULTS, seed=1, concurrency=fewer), lru)
    made = [run(trace, DEFAULTS, seed=seed, concurrency=concurrency) for seed in range(1, seeds + 1)]
    for seed, figures in enumerate(made, 1):
        _show_run(f"the defaults, seed {seed}", figures, lru)
    show("pooled LRU", lru, lru)
    show("pooled Belady", belady, lru)
    if folder is None:
        print("  Dynamo: skipped, DISPATCHER_DYNAMO names no folder that it is installed in")
        return made
    for mode, runs in (("round_robin", 1), ("kv_router", max(5, seeds))):
        results = [dynamo(trace, mode, folder) for _ in range(runs)]
        reused = [result["reused"] for result in results]
        spread = f"  (over {runs} runs: {min(reused):.2%} to {max(reused):.2%})" if runs > 1 else ""
        imbalance = fmean(result["imbalance"] for result in results)
        show(f"Dynamo {mode}, tokens", fmean(reused), lru, imbalance, spread)
    return made


def _show_run(what: str, figures: Report, lru: float) -> None:
    times = f"  mean {figures.mean_s:6.2f} s  p99 {figures.p99_s:6.1f} s  utilization {figures.utilization:.0%}"
    show(what, figures.hit_rate or 0.0, lru, figures.imbalance, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=8, help="requests that a worker runs at a time")
    options = parser.parse_args()
    folder = os.environ.get("DISPATCHER_TRACES")
    if folder is None:
        sys.exit(f"set DISPATCHER_TRACES to the folder that holds {' and '.join(file for file, _ in TRACES.values())}")
    made: dict[str, list[Report]] = {}
    fleet = [SimWorker(f"worker{number + 1}", options.concurrency) for number in range(WORKERS)]
    for name, (file, jitter_ms) in TRACES.items():
        jobs = read_trace(Path(folder) / file)
        jobs = jittered(jobs, jitter_ms, Random(1)) if jitter_ms else jobs
        trace = Trace(name, jobs, bounds_of(jobs, fleet, CACHES))
        made[name] = compare(
            trace, seeds=options.seeds, concurrency=options.concurrency, folder=os.environ.get("DISPATCHER_DYNAMO")
        )  # fmt: skip
    shares = [(figures.hit_rate or 0.0) / (figures.pooled_lru_rate or 1.0) for runs in made.values() for figures in runs]
    imbalance = max(figures.imbalance for runs in made.values() for figures in runs)
    finish(
        "mooncake_prefix",
        value=min(shares),
        limit=OF_POOLED_LRU_LIMIT,
        ok=min(shares) >= OF_POOLED_LRU_LIMIT and imbalance <= IMBALANCE_LIMIT,
        runs=shares,
        imbalance=round(imbalance, 4),
        imbalance_limit=IMBALANCE_LIMIT,
        hit_rates={name: round(fmean(figures.hit_rate or 0.0 for figures in runs), 4) for name, runs in made.items()},
        pooled_lru={name: round(runs[0].pooled_lru_rate or 0.0, 4) for name, runs in made.items()},
        pooled_belady={name: round(runs[0].pooled_belady_rate or 0.0, 4) for name, runs in made.items()},
    )


if __name__ == "__main__":
    main()
