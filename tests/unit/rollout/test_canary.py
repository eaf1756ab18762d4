"""The guard's tests: a canary that is no worse is left alone however often one looks, one that is worse is found soon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.rollout import canary
from dispatcher.core.rollout.aliases import Guard
from dispatcher.core.rollout.canary import (
    DOUBT,
    LIMIT,
    Ended,
    RollBack,
    Stay,
    Step,
    Tally,
    Watch,
    next_stage,
    observe,
    verdict,
)

OLD, NEW = "chat@1", "chat@2"
BLOCK = 100


def guard(**facts: object) -> Guard:
    usual = {"steps": (2000, 5000, 10_000), "stages": 3, "step_s": 0.0, "jobs_min": 50, "latency_ratio": 1.5}
    return Guard(OLD, NEW, began_ms=0, **({"step_began_ms": 0} | usual | facts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Version:
    """How often its jobs fail, and how long they take on average (exponential)."""

    fails: float = 0.0
    mean_ms: float = 100.0


def block(rng: Random, version: str, about: Version, jobs: int, worker: str = "w1", weight: float = 1.0) -> Ended:
    failed = sum(rng.random() < about.fails for _ in range(jobs))
    busy_ms = sum(rng.expovariate(weight / about.mean_ms) for _ in range(jobs - failed))
    return Ended(version, worker, jobs - failed, failed, busy_ms, weight)


def rolled_out(old: Version, new: Version, seed: int, *, looks: int = 150, **facts: object) -> tuple[Watch, RollBack | None]:
    """A whole rollout: shares of 5, 20 and 50 %, a verdict after each of ``looks`` blocks of 100 jobs."""
    rng, rule, watch = Random(seed), guard(**facts), Watch(0)
    for look in range(looks):
        share = (0.05, 0.2, 0.5)[3 * look // looks]
        if look and (0.05, 0.2, 0.5)[3 * (look - 1) // looks] != share:
            next_stage(watch)
        jobs = sum(rng.random() < share for _ in range(BLOCK))
        observe(watch, rule, [block(rng, OLD, old, BLOCK - jobs), block(rng, NEW, new, jobs)])
        found = verdict(watch, rule, 0)
        if isinstance(found, RollBack):
            return watch, found
    return watch, None


@pytest.mark.parametrize("fails", [0.0, 0.002, 0.05, 0.3, 0.9])
def test_a_version_that_is_no_worse_is_not_rolled_back(fails: float) -> None:
    """Looked at 150 times, over 30 seeds and rates from nothing to nine of ten: the chance is one in a thousand each at most."""
    for seed in range(30):
        watch, found = rolled_out(Version(fails), Version(fails), seed)
        assert found is None, f"seed {seed}: {found}"
        assert watch.candidate.runs > 3000


@pytest.mark.parametrize(("old", "typical", "most"), [(0.0, 40, 100), (0.02, 60, 150), (0.1, 100, 250)])
def test_twenty_percent_more_failures_are_found_at_a_share_of_five(old: float, typical: int, most: int) -> None:
    """Every time, and after few jobs of it: fewer the less the old version fails."""
    runs = []
    for seed in range(40):
        watch, found = rolled_out(Version(old), Version(old + 0.2), seed)
        assert found is not None
        runs.append(watch.candidate.runs)
    assert sorted(runs)[20] <= typical
    assert max(runs) <= most


def test_a_version_that_fails_everything_is_found_at_once() -> None:
    """By its first handful of jobs."""
    watch, found = rolled_out(Version(0.01), Version(1.0), 1)
    assert found is not None
    assert watch.candidate.runs <= 20
    assert "runs failed" in found.reason


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 200), st.integers(0, 200), st.floats(0, 1), st.floats(0, 1))
def test_the_error_test_is_fair(n: int, m: int, before: int, failed: int, rate: float, less: float) -> None:
    """Whatever was seen before and whatever the true rate, one more block is expected to multiply no stake by more than 1, so long as
    the new version fails no more often than the old. Computed from the two binomial distributions, not sampled.
    """
    watch = Watch(0, baseline=Tally(before, min(failed, before)))
    new_rate = rate * less
    expected = [0.0] * len(watch.errors.logs)
    # The block's factor is a product over jobs, so its expectation is one too: of the factor of one failure and of one success.
    for index, difference in enumerate(canary.DIFFERENCES):
        theta = (watch.baseline.failed + 0.5) / (watch.baseline.runs + canary.BASELINE_JOBS_MIN)
        worse = min(canary.RATE_MAX, theta + difference)
        mean = (n * theta + m * worse) / (n + m)
        one_old = rate * theta / mean + (1 - rate) * (1 - theta) / (1 - mean)
        one_new = new_rate * worse / mean + (1 - new_rate) * (1 - worse) / (1 - mean)
        expected[index] = n * math.log(one_old) + m * math.log(one_new)
    assert max(expected) <= 1e-9
    # And the code multiplies by just that: checked where all fail and where none does.
    for old_failed, new_failed in ((0, 0), (n, m), (0, m)):
        old, new = Tally(n - old_failed, old_failed), Tally(m - new_failed, new_failed)
        bet = Watch(0, baseline=watch.baseline)
        canary._bet_on_errors(bet, old, new)
        for index, difference in enumerate(canary.DIFFERENCES):
            theta = (watch.baseline.failed + 0.5) / (watch.baseline.runs + canary.BASELINE_JOBS_MIN)
            worse = min(canary.RATE_MAX, theta + difference)
            mean = (n * theta + m * worse) / (n + m)
            log = (
                old_failed * math.log(theta / mean) + (n - old_failed) * math.log((1 - theta) / (1 - mean))
                + new_failed * math.log(worse / mean) + (m - new_failed) * math.log((1 - worse) / (1 - mean))
            )  # fmt: skip
            assert bet.errors.logs[index] == pytest.approx(log, abs=1e-6)


def test_an_outage_of_both_is_nobody_s_fault() -> None:
    """Half of all jobs fail for a while, whatever their version: nothing is rolled back."""
    for seed in range(20):
        rng, rule, watch = Random(seed), guard(), Watch(0)
        for look in range(60):
            about = Version(0.5 if 20 <= look < 40 else 0.001)
            observe(watch, rule, [block(rng, OLD, about, 90), block(rng, NEW, about, 10)])
            assert not isinstance(verdict(watch, rule, 0), RollBack)


# -- latency


def test_a_version_three_times_as_slow_is_rolled_back_and_one_as_fast_is_not() -> None:
    """On the same worker; 1.5 times is what the guard allows. Exponential times: the mean of few jobs says little."""
    for seed in range(20):
        _, found = rolled_out(Version(), Version(mean_ms=300.0), seed)
        assert found is not None
        assert "times slower" in found.reason
        assert rolled_out(Version(), Version(mean_ms=110.0), seed)[1] is None
        assert rolled_out(Version(), Version(mean_ms=300.0), seed, latency_ratio=0.0)[1] is None


def test_a_slow_worker_is_not_a_slow_version() -> None:
    """Where a worker runs both, it is held against itself; where not, its weight counts."""
    for seed in range(10):
        rng, rule, watch, apart = Random(seed), guard(), Watch(0), Watch(0)
        for _ in range(60):
            # An undeclared slow worker has most of the new version's jobs, and enough of the old one's.
            observe(watch, rule, [
                block(rng, OLD, Version(), 80, "fast"), block(rng, OLD, Version(mean_ms=400.0), 15, "slow"),
                block(rng, NEW, Version(mean_ms=400.0), 5, "slow"),
            ])  # fmt: skip
            observe(apart, rule, [block(rng, OLD, Version(), 95, "fast", 4.0), block(rng, NEW, Version(), 5, "slow", 1.0)])
        assert not isinstance(verdict(watch, rule, 0), RollBack)
        assert not isinstance(verdict(apart, rule, 0), RollBack)


@pytest.mark.parametrize("long", [1 / 15, 0.2, 0.4, 0.6, 0.66, 0.9])
def test_jobs_of_two_kinds_are_no_reason(long: float) -> None:
    """Some share takes a second, the rest no time (a cache): whatever the share, a version that is as fast is not rolled back."""
    for seed in range(15):
        rng, rule, watch = Random(seed), guard(), Watch(0)
        for _ in range(150):
            for worker in ("w1", "w2"):
                observe(watch, rule, [
                    Ended(OLD, worker, 95, 0, 1000.0 * sum(rng.random() < long for _ in range(95))),
                    Ended(NEW, worker, 5, 0, 1000.0 * sum(rng.random() < long for _ in range(5))),
                ])  # fmt: skip
                assert not isinstance(verdict(watch, rule, 0), RollBack)


@given(st.floats(0.001, 1), st.integers(canary.VOTE_JOBS, 40))
def test_the_latency_vote_is_fair_for_jobs_of_two_kinds(long: float, jobs: int) -> None:
    """Where jobs take no time or long, whatever the share of either, a mean exceeds 1.5 times what is expected every other time at most."""
    least = math.floor(1.5 * jobs * long + 1e-9) + 1
    exceeds = sum(math.comb(jobs, k) * long**k * (1 - long) ** (jobs - k) for k in range(least, jobs + 1))
    assert exceeds <= 0.5


def test_a_neighbour_that_slows_the_worker_down_slows_both() -> None:
    """For a minute, three times slower, at a share of half: nothing is rolled back."""
    for seed in range(10):
        rng, rule, watch = Random(seed), guard(), Watch(0)
        for look in range(180):
            about = Version(mean_ms=300.0 if 60 <= look < 120 else 100.0)
            observe(watch, rule, [block(rng, OLD, about, 50), block(rng, NEW, about, 50)])
            assert not isinstance(verdict(watch, rule, 0), RollBack)


def test_one_job_that_took_an_hour_is_one_vote() -> None:
    """Its first job loads the model; a canary must survive that."""
    rng, rule, watch = Random(1), guard(), Watch(0)
    for look in range(40):
        busy_ms = 3_600_000.0 if look == 5 else 500.0
        observe(watch, rule, [block(rng, OLD, Version(), 95), Ended(NEW, "w1", 5, 0, busy_ms)])
        assert not isinstance(verdict(watch, rule, 0), RollBack)


# -- steps


def test_a_step_needs_time_and_jobs_and_no_doubt() -> None:
    """Each alone is not enough, and the reason says which is missing."""
    rng, rule, watch = Random(1), guard(step_s=60.0, step_began_ms=1000), Watch(0)
    observe(watch, rule, [block(rng, OLD, Version(), 400), block(rng, NEW, Version(), 49)])
    assert verdict(watch, rule, 999_999) == Stay("49 of 50 runs seen at this share")
    observe(watch, rule, [block(rng, NEW, Version(), 1)])
    assert verdict(watch, rule, 60_500) == Stay("1 s left at this share")
    found = verdict(watch, rule, 61_000)
    assert isinstance(found, Step)
    assert "20 %" in found.reason
    observe(watch, rule, [Ended(OLD, "w1", 100, 0, 10_000.0), Ended(NEW, "w1", 2, 2, 200.0)])
    assert DOUBT <= watch.errors.present() < LIMIT
    assert isinstance(verdict(watch, rule, 61_000), Stay)
    next_stage(watch)
    assert verdict(watch, rule, 99_000) == Stay("0 of 50 runs seen at this share")


def test_a_version_that_ends_nothing_is_never_promoted() -> None:
    """However long it has its share."""
    rule, watch = guard(), Watch(0)
    for _ in range(1000):
        observe(watch, rule, [Ended(OLD, "w1", 100, 0, 10_000.0)])
    assert isinstance(verdict(watch, rule, 10**9), Stay)


def test_twenty_percent_are_hardly_ever_let_up_to_the_next_share() -> None:
    """Of 200 canaries that fail one in five, two at most are as lucky in the least that they must show; the next share finds them."""
    lucky = 0
    for seed in range(200):
        rng, rule, watch = Random(seed), guard(), Watch(0)
        found: object = None
        while not isinstance(found, RollBack | Step):
            observe(watch, rule, [block(rng, OLD, Version(0.01), 95), block(rng, NEW, Version(0.2), 5)])
            found = verdict(watch, rule, 0)
        lucky += isinstance(found, Step)
    assert lucky <= 2


def test_after_a_long_good_time_a_new_share_is_watched_afresh() -> None:
    """Ten thousand good jobs at one share do not excuse what goes wrong at the next."""
    rng, rule, watch = Random(1), guard(), Watch(0)
    for _ in range(500):
        observe(watch, rule, [block(rng, OLD, Version(0.01), 80), block(rng, NEW, Version(0.01), 20)])
    next_stage(watch)
    good = watch.candidate.runs
    while not isinstance(verdict(watch, rule, 0), RollBack):
        observe(watch, rule, [block(rng, OLD, Version(0.01), 50), block(rng, NEW, Version(0.3), 5)])
        assert watch.candidate.runs - good < 200


def test_other_models_and_what_came_before_the_baseline_count_for_nothing() -> None:
    """No test begins before the old version has shown how often it fails."""
    rule, watch = guard(), Watch(0)
    observe(watch, rule, [Ended("other", "w1", 0, 100, 0.0), Ended(NEW, "w1", 0, 3, 0.0), Ended(OLD, "w1", 19, 0, 1.0)])
    observe(watch, rule, [Ended(NEW, "w1", 0, 3, 0.0), Ended(OLD, "w1", 19, 0, 1.0)])
    assert watch.errors.logs == [0.0] * len(watch.errors.logs)
    assert (watch.baseline.runs, watch.candidate.failed) == (38, 6)


def test_a_successor_goes_on_where_the_leader_was() -> None:
    """Through JSON and back, nothing of what was seen is lost."""
    watch, _ = rolled_out(Version(0.01), Version(0.02), 3, looks=40)
    assert msgspec.json.decode(msgspec.json.encode(watch), type=Watch) == watch
