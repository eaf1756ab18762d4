"""``dispatcher simulate``: what a strategy would have done with a trace, on a fleet that need not exist."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import click

from dispatcher.cli.output import json_option, plain_table, wide_console
from dispatcher.cli.session import Session
from dispatcher.errors import Invalid
from dispatcher.settings.knobs import STICKY

if TYPE_CHECKING:
    from dispatcher.simulation.plot import Run
    from dispatcher.simulation.traces import SimJob
    from dispatcher.simulation.workers import Failure


@click.command()
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE",
              help="A published trace, .gz or not: Azure, Mooncake, Qwen-Bailian, BurstGPT, ServeGen offline, vidur, "
                   "splitwise-sim or WEKA.")
@click.option("--trace-unit", type=click.Choice(("s", "ms")),
              help="Unit of time of a trace with the keys of Mooncake's, which others write in seconds.  [default: ms]")
@click.option("--rate", type=float, metavar="JOBS/S", help="Make jobs up instead of reading a trace: Poisson arrivals.")
@click.option("--cost", metavar="DIST",
              help="With --rate: the work of a job, const:S, exp:MEAN or lognormal:MEAN,CV.  [default: exp:1]")
@click.option("--jobs", type=click.IntRange(1), metavar="N",
              help="How many jobs to make up (default 10000), or to read from the trace.")
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), metavar="FILE",
              help="The workers, in TOML; the settings in the file count too.")
@click.option("--strategy", "strategies", multiple=True, metavar="NAME",
              help="May be repeated; `all` runs all.  [default: the setting]")
@click.option("--seed", type=int, default=1, show_default=True, help="The seed of arrivals, estimates and ties.")
@click.option("--noise", type=click.FloatRange(1), default=1.0,
              help="Estimates of cost are wrong by up to this factor, either way.")
@click.option("--jitter-s", type=click.FloatRange(0), default=0.0,
              help="Spread arrivals by up to this much, for a trace with rounded timestamps.")
@click.option("--fail", "failures", multiple=True, metavar="WORKER@S[+BACK_S]",
              help="Let this worker die after S seconds, and come back BACK_S later.")
@click.option("--handover-ms", type=click.FloatRange(0), default=0.0,
              help="How long an assigned job takes to reach an idle worker.")
@click.option("--tick-ms", type=click.FloatRange(0), default=0.0,
              help="Pause between plans; makes large fleets quick to simulate.")
@click.option("--blocks", type=click.IntRange(0), default=0,
              help="Prefix blocks that each worker caches: of 512 tokens, or as the trace has them.  [default: none]")
@click.option("--sessions", type=click.IntRange(1), metavar="N",
              help="With --rate: jobs are turns of N sessions that are open at a time.")
@click.option("--turns", type=click.FloatRange(1), default=10.0, show_default=True,
              help="Jobs in a session, on average.")
@click.option("--session-cache", type=click.IntRange(0), metavar="N",
              help="Sessions that each worker keeps.  [default: all of them]")
@click.option("--session-saves", type=click.FloatRange(0, 1), default=0.0,
              help="Share of its work that a job saves where its session is kept.")
@click.option("--models", type=click.IntRange(1), metavar="N",
              help="Jobs are for N models; a worker holds `models_max` (fleet file) at a time.")
@click.option("--model-skew", type=click.FloatRange(0), default=1.0, show_default=True,
              help="How much more the first models are wanted (Zipf exponent).")
@click.option("--load-s", type=click.FloatRange(0), default=10.0, show_default=True,
              help="How long a model takes to load.")
@click.option("--sticky", type=click.Choice(STICKY),
              help="Send a session or prefix to the worker that had it.  [default: the setting]")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.html",
              help="Write a page with curves.")
@json_option
@click.pass_obj
def simulate(
    session: Session,
    trace: Path | None,
    trace_unit: str | None,
    rate: float | None,
    cost: str | None,
    jobs: int | None,
    fleet_file: Path | None,
    strategies: tuple[str, ...],
    seed: int,
    noise: float,
    jitter_s: float,
    failures: tuple[str, ...],
    handover_ms: float,
    tick_ms: float,
    blocks: int,
    sessions: int | None,
    turns: float,
    session_cache: int | None,
    session_saves: float,
    models: int | None,
    model_skew: float,
    load_s: float,
    sticky: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Run the dispatcher's own policy over a trace in virtual time.

    A request of a trace counts as input / 8000 + 0.02 × output seconds of work on a worker of weight 1. With --blocks,
    input in blocks that the worker has cached (`hash_ids` in traces) takes no time. With --models, each
    worker has a memory of its own for `models_max` models. Needs no Redis.
    """
    from dispatcher.core.choosing.strategies import STRATEGIES, strategy
    from dispatcher.simulation.bounds import bounds_of
    from dispatcher.simulation.caches import CacheSizes
    from dispatcher.simulation.plot import Run, page
    from dispatcher.simulation.report import report
    from dispatcher.simulation.traces import with_models, with_sessions
    from dispatcher.simulation.workers import SimWorker
    from dispatcher.simulation.world import World

    settings, fleet = session.load_with_fleet(fleet_file)
    if sticky is not None:
        settings = replace(settings, sticky=sticky).checked()
    names = tuple(STRATEGIES) if "all" in strategies else strategies or (settings.strategy,)
    chosen = [strategy(name) for name in dict.fromkeys(names)]
    workers = [SimWorker(name, kind.concurrency, kind.weight, kind.models_max) for name, kind in fleet.workers()]
    if not workers:
        raise Invalid("the fleet has no workers: nothing would ever run")
    deaths = [_failure(text, {worker.name for worker in workers}) for text in failures]
    if sessions is not None and trace is not None:
        raise click.UsageError("--sessions goes with --rate: a trace has its own, or none")
    work = _jobs(trace, trace_unit, rate, cost, jobs, jitter_s, seed)
    if sessions is not None:
        work = with_sessions(work, sessions=sessions, turns=turns, saves=session_saves, rng=Random(seed + 1))
    load_ms: dict[str, float] = {}
    if models is not None:
        work = with_models(work, models=models, skew=model_skew, rng=Random(seed + 2))
        load_ms = dict.fromkeys({job.model for job in work}, load_s * 1000)
    caches = CacheSizes(blocks, len(work) if session_cache is None else session_cache)
    bounds = bounds_of(work, workers, caches)
    runs: list[Run] = []
    for each in chosen:
        world = World(
            work, workers, strategy=each, settings=settings, rng=Random(seed), noise=noise, failures=deaths,
            handover_ms=handover_ms, tick_ms=tick_ms, caches=caches, load_ms=load_ms,
        )  # fmt: skip
        outcome = world.run()
        runs.append(Run(report(each.name, work, workers, outcome, bounds), outcome))
    title = trace.name if trace else f"{rate:g} jobs/s, {cost or 'exp:1'}"
    if plot is not None:
        try:
            plot.write_text(page(title, runs), "utf-8")
        except OSError as exc:
            raise Invalid(f"cannot write {plot}: {exc.strerror}; name a file in a folder that is there") from exc
    if as_json:
        facts = {"seed": seed, "noise": noise, "runs": [run.report.facts() for run in runs]}
        click.echo(json.dumps(_without_nan(facts), allow_nan=False))
    else:
        _print(runs)


def _jobs(
    trace: Path | None, unit: str | None, rate: float | None, cost: str | None, jobs: int | None, jitter_s: float,
    seed: int,
) -> list[SimJob]:
    from dispatcher.simulation.traces import cost_distribution, jittered, load_trace, poisson

    if (trace is None) == (rate is None):
        raise click.UsageError("name either a --trace or a --rate")
    if trace is not None:
        if cost is not None:
            raise click.UsageError("--cost goes with --rate: a trace has costs of its own")
        loaded = load_trace(trace, limit=jobs, unit=unit)
        for note in loaded.notes:
            click.echo(f"{trace}, a trace of {loaded.kind}: {note}", err=True)
        return jittered(loaded.jobs, jitter_s * 1000, Random(seed)) if jitter_s else loaded.jobs
    if unit is not None:
        raise click.UsageError("--trace-unit goes with --trace")
    assert rate is not None
    if not 0 < rate < math.inf:
        raise click.UsageError(f"--rate is {rate}: expected jobs a second, more than 0")
    return poisson(rate_per_s=rate, jobs=jobs or 10_000, cost=cost_distribution(cost or "exp:1"), rng=Random(seed))


def _failure(text: str, known: set[str]) -> Failure:
    from dispatcher.simulation.workers import Failure

    name, _, times = text.partition("@")
    at, plus, back = times.partition("+")
    try:
        failure = Failure(name, float(at) * 1000, float(back) * 1000 if plus else None)
        if not (0 <= failure.at_ms < math.inf and 0 <= (failure.back_ms or 0.0) < math.inf):
            raise ValueError
    except ValueError:
        raise click.UsageError(f"--fail is {text!r}: write worker@seconds, or worker@seconds+seconds") from None
    if name not in known:
        raise click.UsageError(f"--fail names {name!r}: the fleet has {', '.join(sorted(known))}")
    return failure


def _print(runs: list[Run]) -> None:
    from dispatcher.simulation.plot import columns, pooled

    first = runs[0].report
    table = plain_table(*columns(first))
    for run in runs:
        table.add_row(*columns(run.report).values())
    wide_console().print(table)
    click.echo(f"{first.jobs} jobs, {len(first.workers)} workers; lower bound of the mean: {first.mean_bound_s:.2f} s")
    if bound := pooled(first):
        click.echo(bound)


def _without_nan(value: object) -> object:
    """The value with null for NaN, such as the mean of no job: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
