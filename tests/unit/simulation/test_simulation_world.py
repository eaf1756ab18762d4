"""The simulated cell: it loses nothing, repeats itself under a seed, and agrees with what is known in closed form."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.settings import Settings
from dispatcher.simulation.bounds import mean_response_bound_ms, pooled_srpt_mean_ms
from dispatcher.simulation.outcome import SimOutcome
from dispatcher.simulation.report import percentile, report
from dispatcher.simulation.traces import SimJob, cost_distribution, poisson
from dispatcher.simulation.workers import Failure, SimWorker
from dispatcher.simulation.world import World

LATE = Settings(window_extra=0, window_hide_ms=0.0)
names = st.sampled_from(sorted(STRATEGIES))
fleets = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.5, 1.0, 4.0])), min_size=1, max_size=4).map(
    lambda found: [SimWorker(f"w{i}", slots, weight) for i, (slots, weight) in enumerate(found)]
)
works = st.lists(st.tuples(st.floats(0, 3_000), st.floats(1, 5_000)), min_size=1, max_size=60).map(
    lambda found: [SimJob(at_ms, cost_ms) for at_ms, cost_ms in sorted(found)]
)


def simulate(
    jobs: list[SimJob], fleet: list[SimWorker], name: str = "least_work", *, seed: int = 1, given_settings: Settings = LATE, **more: object
) -> SimOutcome:
    world = World(jobs, fleet, strategy=STRATEGIES[name], settings=given_settings, rng=Random(seed), **more)  # type: ignore[arg-type]
    return world.run()


def mean_s(outcome: SimOutcome) -> float:
    return sum(outcome.response_ms) / len(outcome.response_ms) / 1000


# ---- SAFETY


@settings(deadline=None)
@given(works, fleets, names, st.integers(0, 2), st.sampled_from([1.0, 3.0]))
def test_every_job_ends_exactly_once(jobs: list[SimJob], fleet: list[SimWorker], name: str, extra: int, noise: float) -> None:
    """Whatever the strategy, the windows and the estimates: all work is done, once, and by nobody else."""
    outcome = simulate(jobs, fleet, name, given_settings=Settings(window_extra=extra), noise=noise)

    assert outcome.runs == [1] * len(jobs)
    assert not any(math.isnan(ms) for ms in outcome.response_ms)
    assert sum(account.jobs for account in outcome.workers.values()) == len(jobs)
    assert sum(account.work_ms for account in outcome.workers.values()) == pytest.approx(sum(job.cost_ms for job in jobs))


@settings(deadline=None)
@given(works, fleets, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(["oldest", "shortest"]), st.booleans())
def test_every_job_ends_in_any_order_and_with_holds(
    jobs: list[SimJob], fleet: list[SimWorker], ratio: float, order: str, dies: bool
) -> None:
    """A job that waits for a faster worker gets one, even if that one dies meanwhile."""
    how = Settings(strategy="earliest_completion", order=order, hold_ratio=ratio, window_extra=0, window_idle=0.05)
    failures = [Failure(fleet[0].name, 800.0, 1_000.0)] if dies else []
    outcome = simulate(jobs, fleet, how.strategy, given_settings=how, failures=failures)

    assert not any(math.isnan(ms) for ms in outcome.response_ms)
    assert sum(account.jobs for account in outcome.workers.values()) == len(jobs)


@settings(deadline=None)
@given(works, fleets, names, st.lists(st.tuples(st.integers(0, 3), st.floats(0, 6_000)), max_size=4))
def test_a_dead_workers_jobs_come_back(
    jobs: list[SimJob], fleet: list[SimWorker], name: str, deaths: list[tuple[int, float]]
) -> None:
    """As long as dead workers return, every job ends; it is repeated only where a worker died while it ran."""
    failures = [Failure(f"w{i}", at_ms, 1_000.0) for i, at_ms in deaths if i < len(fleet)]
    outcome = simulate(jobs, fleet, name, failures=failures)

    assert not any(math.isnan(ms) for ms in outcome.response_ms)
    assert sum(account.jobs for account in outcome.workers.values()) == len(jobs)
    most = sum(next(one.concurrency for one in fleet if one.name == failure.name) for failure in failures)
    assert sum(runs - 1 for runs in outcome.runs) <= most


@settings(deadline=None)
@given(works, fleets, names, st.integers(0, 2))
def test_no_run_beats_the_bound(jobs: list[SimJob], fleet: list[SimWorker], name: str, extra: int) -> None:
    """The mean response is never below the lower bound, and no response below the work on the fastest slot."""
    outcome = simulate(jobs, fleet, name, given_settings=Settings(window_extra=extra))
    made = report(name, jobs, fleet, outcome)
    fastest = max(one.weight for one in fleet)

    assert made.mean_s >= made.mean_bound_s - 1e-9
    assert all(ms >= job.cost_ms / fastest - 1e-6 for ms, job in zip(outcome.response_ms, jobs, strict=True))
    assert 0 < made.utilization <= 1 + 1e-9


@settings(deadline=None)
@given(works, fleets, names, st.integers(0, 99))
def test_the_same_seed_gives_the_same_outcome(jobs: list[SimJob], fleet: list[SimWorker], name: str, seed: int) -> None:
    """Estimates, ties and draws all come from it."""
    assert simulate(jobs, fleet, name, seed=seed, noise=2.0) == simulate(jobs, fleet, name, seed=seed, noise=2.0)


def test_a_dead_worker_that_stays_away_leaves_work_undone() -> None:
    """Nobody else is there: its job never ends, and the report says so instead of counting it."""
    fleet = [SimWorker("only")]
    jobs = [SimJob(0.0, 1_000.0), SimJob(0.0, 1_000.0)]
    made = report("least_work", jobs, fleet, simulate(jobs, fleet, failures=[Failure("only", 1_500.0)]))

    assert (made.unfinished, made.mean_s) == (1, 1.0)


def test_jobs_of_a_dead_worker_wait_for_its_lease_to_end() -> None:
    """It dies half way through: the other worker runs the job again once the silence is as long as the lease, not sooner."""
    fleet = [SimWorker("strong", weight=2.0), SimWorker("weak")]
    jobs = [SimJob(0.0, 4_000.0)]
    outcome = simulate(jobs, fleet, failures=[Failure("strong", 1_000.0)])

    assert outcome.runs == [2]
    assert outcome.response_ms == [1_000.0 + 5_000.0 + 4_000.0]


# ---- LIVENESS


@settings(deadline=None)
@given(works, st.integers(1, 4), names)
def test_it_conserves_work(jobs: list[SimJob], slots: int, name: str) -> None:
    """No slot of equals is idle while a job waits: all end when a single line before those slots would have ended."""
    fleet = [SimWorker(f"w{i}") for i in range(slots)]
    outcome = simulate(jobs, fleet, name)
    busy_ms = sum(job.cost_ms for job in jobs)
    longest_ms = max(job.cost_ms for job in jobs)

    assert outcome.ended_ms <= jobs[-1].at_ms + busy_ms / slots + longest_ms + 1e-6


def test_one_worker_is_an_m_m_1() -> None:
    """Poisson arrivals at half of what it can do, exponential work: mean response 1 / (1 - 0.5) = 2 s."""
    found = []
    for seed in (1, 2, 3):
        jobs = poisson(rate_per_s=0.5, jobs=10_000, cost=cost_distribution("exp:1"), rng=Random(seed))
        # one size class, and so one line in the order of arrival, as the model has it: a lane says nothing of size here
        outcome = simulate(jobs, [SimWorker("only")], given_settings=Settings(window_extra=1_000_000))
        found.append(mean_s(outcome))

    assert sum(found) / 3 == pytest.approx(2.0, rel=0.08)


@pytest.mark.parametrize("fleet", [[SimWorker("one", 4)], [SimWorker(f"w{i}") for i in range(4)]], ids=["slots", "workers"])
def test_four_slots_are_an_m_m_4(fleet: list[SimWorker]) -> None:
    """At 80 % load: Erlang's C gives a mean response of 1 + 0.596 / 0.8 = 1.745 s, for slots of one worker and for workers alike.
    The order by size does better.
    """
    found = {"oldest": 0.0, "shortest": 0.0}
    for order in found:
        for seed in (1, 2, 3):
            jobs = poisson(rate_per_s=3.2, jobs=12_000, cost=cost_distribution("exp:1"), rng=Random(seed))
            found[order] += mean_s(simulate(jobs, fleet, given_settings=replace(LATE, order=order))) / 3

    assert found["oldest"] == pytest.approx(1.745, rel=0.1)
    assert found["shortest"] < found["oldest"]


def test_shares_of_a_backlog_come_out_as_capacities() -> None:
    """Weights 4:2:1, all jobs at once: each worker does its share of the work, and the fleet is never idle but at the end."""
    fleet = [SimWorker("large", weight=4.0), SimWorker("medium", weight=2.0), SimWorker("small")]
    jobs = [SimJob(0.0, 400.0)] * 700
    made = report("least_work", jobs, fleet, simulate(jobs, fleet))

    assert made.share_error < 0.005
    assert made.utilization > 0.99


def test_a_hold_ends_though_nothing_happens() -> None:
    """The job of a session waits for its worker, which is busy for an hour more than it said, and has the idle one after `hold_max_s`."""
    fleet = [SimWorker("a"), SimWorker("b")]
    jobs = [SimJob(0.0, 3_600_000.0, session="s"), SimJob(10.0, 1_000.0, session="s")]
    outcome = simulate(jobs, fleet, "earliest_completion", given_settings=replace(LATE, sticky_wait_s=1e5, hold_max_s=20.0, hold_ratio=0.0))

    assert outcome.response_ms == [3_600_000.0, pytest.approx(21_000.0, abs=2)]


def test_a_handover_takes_its_time() -> None:
    """A job that finds an idle worker begins so much later."""
    assert simulate([SimJob(0.0, 100.0)], [SimWorker("only")], handover_ms=7.0).response_ms == [107.0]


@settings(deadline=None)
@given(works, fleets, st.sampled_from([1.0, 50.0]))
def test_a_tick_delays_no_job_by_more_than_itself(jobs: list[SimJob], fleet: list[SimWorker], tick_ms: float) -> None:
    """Every job ends, and an idle fleet begins it at the next plan."""
    outcome = simulate(jobs, fleet, tick_ms=tick_ms)

    assert outcome.runs == [1] * len(jobs)
    assert simulate(jobs[:1], fleet, tick_ms=tick_ms) == simulate(jobs[:1], fleet)
    second = simulate([SimJob(0.0, 1_000.0), SimJob(0.5, 1_000.0)], [SimWorker("a"), SimWorker("b")], tick_ms=tick_ms)
    assert second.response_ms == [1_000.0, 1_000.0 + tick_ms - 0.5]


def test_random_overloads_the_weak_only_without_windows() -> None:
    """Late binding is what keeps even a blind strategy stable on unlike workers."""
    fleet = [SimWorker("strong", weight=7.0), SimWorker("weak", weight=0.5)]
    jobs = poisson(rate_per_s=5.0, jobs=3_000, cost=cost_distribution("exp:1"), rng=Random(1))
    late = simulate(jobs, fleet, "random")
    early = simulate(jobs, fleet, "random", given_settings=Settings(window_extra=1_000_000))

    assert mean_s(early) > 20 * mean_s(late)


# ---- BOUNDS


def test_srpt_by_hand() -> None:
    """A long job is put aside for a short one that comes later, and taken up again."""
    jobs = [(0.0, 10.0), (2.0, 1.0), (20.0, 4.0)]

    assert pooled_srpt_mean_ms(jobs, 1.0) == pytest.approx((11 + 1 + 4) / 3)
    assert pooled_srpt_mean_ms(jobs, 2.0) == pytest.approx((5.5 + 0.5 + 2) / 3)


def test_the_bound_is_the_larger_of_two() -> None:
    """One job cannot be split over the fleet: the fastest slot is what it takes."""
    assert mean_response_bound_ms([(0.0, 10.0)], fleet_speed=100.0, fastest=2.0) == 5.0


def test_percentiles_are_values_that_occurred() -> None:
    """The smallest one that so many do not exceed; of nothing, NaN."""
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (25, 50, 51, 99, 100)] == [1, 2, 3, 4, 4]
    assert math.isnan(percentile([], 50))


def test_waiting_is_sampled() -> None:
    """About 400 points over the time of arrivals, whatever their number."""
    jobs = poisson(rate_per_s=5.0, jobs=5_000, cost=cost_distribution("const:0.1"), rng=Random(1))
    waiting = simulate(jobs, [SimWorker("only")]).waiting

    assert 300 <= len(waiting) <= 402
    assert Counter(at for at, _ in waiting).most_common(1)[0][1] == 1
