"""Several models, few places in memory: what it saves that the dispatcher knows who holds what, and what a load costs.

8 workers of two slots and two places in memory each, simulated: the dispatcher's own policy with its defaults, and all it knows of the
memories comes with beats. Jobs of 1 s (exponential) at 70 % load, for models of which the first is wanted most (Zipf); a load takes 10 s
(assumed), and what is in use is not closed. *Told*: as it is; *untold*: by the same rule, of workers that do not say what they hold.
*Belady*: the loads of one memory as large as all together that knows what comes and serves in order of arrival, one copy of each model; no
dispatcher has to reach it, and only one that lets jobs wait for others of their model needs fewer.

The value is the share of jobs that have to load their model, 12 models in 16 places, the worst of all seeds; ok only if the p95 response is
less than a tenth of the untold one's in every run. The rows of 24 models show what happens where not all fit in.

    python -m benchmarks.model_affinity [--jobs 5000] [--seeds 3]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.result import finish
from dispatcher.core.choosing.strategies import strategy
from dispatcher.settings import Settings
from dispatcher.simulation.bounds import bounds_of
from dispatcher.simulation.caches import CacheSizes
from dispatcher.simulation.report import percentile
from dispatcher.simulation.traces import cost_distribution, poisson, with_models
from dispatcher.simulation.workers import SimWorker
from dispatcher.simulation.world import World

LIMIT: Final = 0.03
WORKERS, SLOTS, PLACES = 8, 2, 2
LOAD_S: Final = 10.0
UTILIZATION: Final = 0.7
FITTING, TOO_MANY = 12, 24


@dataclass(frozen=True, slots=True)
class Run:
    """``cold``: share of jobs that had to load."""

    loads: int
    belady: int
    cold: float
    mean_s: float
    p95_s: float


def run(models: int, jobs: int, seed: int, *, reported: bool) -> Run:
    rng = Random(seed)
    rate = UTILIZATION * WORKERS * SLOTS
    work = with_models(
        poisson(rate_per_s=rate, jobs=jobs, cost=cost_distribution("exp:1"), rng=rng), models=models, skew=1.0, rng=rng
    )
    fleet = [SimWorker(f"w{number}", SLOTS, 1.0, PLACES) for number in range(WORKERS)]
    load_ms = {job.model: LOAD_S * 1000 for job in work}
    settings = Settings()
    world = World(
        work, fleet, strategy=strategy(settings.strategy), settings=settings, rng=Random(seed), load_ms=load_ms,
        reports_models=reported,
    )
    outcome = world.run()
    took_s = sorted(ms / 1000 for ms in outcome.response_ms)
    belady = bounds_of(work, fleet, CacheSizes()).belady_loads
    return Run(outcome.loads, belady, outcome.loads / jobs, sum(took_s) / jobs, percentile(took_s, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cold, quicker, rows = [], [], {}
    for models in (FITTING, TOO_MANY):
        for seed in range(1, options.seeds + 1):
            informed, uninformed = (run(models, options.jobs, seed, reported=reported) for reported in (True, False))
            if models == FITTING:
                cold.append(informed.cold)
                quicker.append(informed.p95_s / uninformed.p95_s)
            for name, made in (("told", informed), ("untold", uninformed)):
                rows[f"{models} models, {name}, seed {seed}"] = [made.loads, round(made.mean_s, 2), round(made.p95_s, 2)]
                print(
                    f"{models} models in {WORKERS * PLACES} places, seed {seed}, {name:6}: {made.loads:5} loads "
                    f"(Belady {made.belady}), {made.cold:.1%} of jobs, mean {made.mean_s:7.2f} s, p95 {made.p95_s:7.2f} s",
                    flush=True,
                )
    finish(
        "model_affinity", value=max(cold), limit=LIMIT, ok=max(cold) <= LIMIT and max(quicker) < 0.1, runs=cold,
        p95_told_over_untold=round(max(quicker), 4), loads_mean_p95=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
