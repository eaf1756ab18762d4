"""Models in the memories of simulated workers: as a real worker holds them, and no load that another choice would have saved."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.choosing.strategies import STRATEGIES, strategy
from dispatcher.settings import Settings
from dispatcher.simulation.bounds import bounds_of
from dispatcher.simulation.caches import CacheSizes, ModelPlaces
from dispatcher.simulation.outcome import SimOutcome
from dispatcher.simulation.report import report
from dispatcher.simulation.traces import SimJob, cost_distribution, poisson, with_models
from dispatcher.simulation.workers import Failure, SimWorker
from dispatcher.simulation.world import World

LOAD_MS = 10_000.0


def simulate(jobs: list[SimJob], fleet: list[SimWorker], name: str = "earliest_completion", **how: object) -> SimOutcome:
    load_ms = {job.model: LOAD_MS for job in jobs}
    world = World(jobs, fleet, strategy=strategy(name), settings=Settings(), rng=Random(1), load_ms=load_ms, **how)  # type: ignore[arg-type]
    return world.run()


def load_of(models: int, *, jobs: int, rate_per_s: float) -> list[SimJob]:
    rng = Random(3)
    return with_models(
        poisson(rate_per_s=rate_per_s, jobs=jobs, cost=cost_distribution("exp:1"), rng=rng), models=models, skew=1.0, rng=rng
    )


def test_a_memory_closes_what_was_used_longest_ago_and_nobody_uses() -> None:
    """As a worker's own does; a job whose model finds no place waits for one."""
    places = ModelPlaces(2)
    assert places.enter("a", 0.0, 10.0) == 10.0
    assert places.enter("a", 4.0, 10.0) == 10.0, "it shares the load"
    assert places.enter("b", 5.0, 10.0) == 15.0
    assert places.report(12.0).resident == ["a"]
    assert places.enter("c", 20.0, 10.0) is None
    places.leave("b")
    assert places.enter("c", 20.0, 10.0) == 30.0
    assert places.enter("a", 40.0, 10.0) == 40.0
    assert places.report(40.0).resident == ["a", "c"]
    assert places.report(40.0).loads == {"a": (1, 10), "b": (1, 10), "c": (1, 10)}


@given(st.integers(1, 3), st.lists(st.sampled_from("abcdef"), max_size=40))
def test_one_at_a_time_loads_are_those_of_lru(room: int, jobs: list[str]) -> None:
    """Any sequence of jobs, beside a list that is kept in order of use."""
    places, order, misses = ModelPlaces(room), [], 0
    for at, model in enumerate(jobs):
        places.enter(model, float(at), 0.0)
        places.leave(model)
        misses += model not in order
        order = [*(one for one in order if one != model), model][-room:]

    assert sum(count for count, _ in places.loads.values()) == misses


def test_a_job_waits_for_its_load_and_the_next_one_does_not() -> None:
    """In closed form: one worker, two jobs of a second."""
    jobs = [SimJob(0.0, 1_000.0, model="a"), SimJob(20_000.0, 1_000.0, model="a"), SimJob(40_000.0, 1_000.0, model="b")]
    outcome = simulate(jobs, [SimWorker("w", models_max=1)])

    assert outcome.response_ms == [11_000.0, 1_000.0, 11_000.0]
    assert (outcome.models.hits, outcome.loads) == (1, 2)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.booleans())
def test_every_job_ends(name: str, slots: int, room: int, told: bool, fails: bool) -> None:
    """With any strategy, more jobs at a time than memory has places, and a worker that dies while it loads."""
    jobs = load_of(4, jobs=60, rate_per_s=1.0)
    failures = [Failure("w0", 8_000.0, 5_000.0)] if fails else []
    outcome = simulate(jobs, [SimWorker(f"w{i}", slots, 1.0, room) for i in range(3)], name, reports_models=told, failures=failures)

    assert all(ms > 0 for ms in outcome.response_ms)
    assert 60 <= outcome.models.asked <= sum(outcome.runs), "who dies while it waits for a place in memory has loaded nothing"


@pytest.mark.parametrize(("models", "slots"), [(6, 1), (6, 2), (3, 1)])
def test_models_keep_to_their_workers(models: int, slots: int) -> None:
    """Where all of them fit in somewhere, loads are a few; those who are told nothing do nothing but load."""
    fleet = [SimWorker(f"w{i}", slots, 1.0, 2) for i in range(4)]
    jobs = load_of(models, jobs=800, rate_per_s=2.0 * slots)
    told, untold = simulate(jobs, fleet), simulate(jobs, fleet, reports_models=False)

    assert told.loads < 0.05 * len(jobs)
    assert told.loads < untold.loads / 8
    assert sum(told.response_ms) < sum(untold.response_ms) / 8


def test_where_not_all_models_fit_they_take_turns() -> None:
    """Ten models in four places: none waits for ever, and the fleet is not lost to loading."""
    fleet = [SimWorker(f"w{i}", 1, 1.0, 1) for i in range(4)]
    jobs = load_of(10, jobs=600, rate_per_s=1.5)
    told, untold = simulate(jobs, fleet), simulate(jobs, fleet, reports_models=False)

    assert told.loads < untold.loads / 3
    assert max(told.response_ms) < max(untold.response_ms) / 3


def test_loads_are_reported_beside_the_bound() -> None:
    """A memory as large as all, that knows what comes: under light load no dispatcher beats it."""
    fleet = [SimWorker(f"w{i}", 1, 1.0, 2) for i in range(2)]
    jobs = load_of(6, jobs=200, rate_per_s=0.5)
    found = report("earliest_completion", jobs, fleet, simulate(jobs, fleet), bounds_of(jobs, fleet, CacheSizes()))

    assert 6 <= found.pooled_belady_loads <= found.loads
    assert found.model_hit_rate == pytest.approx(1 - found.loads / 200)
    assert bounds_of(jobs, [SimWorker("w")], CacheSizes()).belady_loads == 6
