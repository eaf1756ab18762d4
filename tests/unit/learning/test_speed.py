"""Measured speeds, from made-up evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.facts.evidence import Delta, Memory, Running, WorkerReport, WorkerTotals
from dispatcher.core.learning.rate import Rate
from dispatcher.core.learning.speeds import BOUND, GONE_MAX, Speeds
from tests.unit.facts.evidence_fleet import MODEL, TASK, UNLIKE, Fleet


def ratios(found: Mapping[str, float], true: Mapping[str, float]) -> list[float]:
    """Found over true, as multiples of their geometric mean."""
    logs = [math.log(found[name] / true[name]) for name in true]
    mean = sum(logs) / len(logs)
    return [math.exp(log - mean) for log in logs]


def test_workers_without_weights_are_told_apart() -> None:
    """Of 8:4:2:1 with nothing configured or declared: the ratios are right, their geometric mean is 1, and so are the times."""
    fleet = Fleet(UNLIKE).run(60)

    assert ratios(fleet.found(), UNLIKE) == pytest.approx([1.0] * 4, rel=0.1)
    assert math.prod(fleet.found().values()) == pytest.approx(1.0, rel=0.1)
    assert fleet.times_s() == pytest.approx({name: 0.4 / speed for name, speed in UNLIKE.items()}, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.5, 8.0), min_size=2, max_size=4),
    st.floats(0.2, 2.0),
    st.floats(0.0, 1.0),
    st.one_of(st.none(), st.floats(0.1, 10.0)),
    st.integers(0, 1_000),
)
def test_ratios_are_learned_through_noise(
    speeds: list[float], cost_s: float, cv: float, declared: float | None, seed: int
) -> None:
    """Whatever the speeds, the size of jobs, and the unit of the costs that producers declare, if they do.

    What the mean moves over is a hundred jobs: with costs that vary by cv, the noise left is a fourteenth of it. And the bare prior
    counts as five jobs against those that the slowest has done.
    """
    true = {f"w{at}": speed for at, speed in enumerate(speeds)}
    fleet = Fleet(true, cost_s=cost_s, cv=cv, declared=declared, seed=seed).run(150)
    jobs = 150 * min(speeds) / cost_s
    spread = max(speeds) / min(speeds)
    prior = spread ** (5 / jobs)
    noise = 1 + 5 * cv / math.sqrt(min(jobs, 140)) if declared is None else 1.02

    assert all(1 / (prior * noise) / 1.05 < ratio < prior * noise * 1.05 for ratio in ratios(fleet.found(), true))


deltas = st.builds(
    lambda name, done, failed, busy_ms, cost_ms, guessed: Delta(
        f"{name}-1", name, TASK, MODEL, done, failed, busy_ms, cost_ms, 0,
        min(done, guessed), min(busy_ms, guessed * 10), min(cost_ms, guessed * 10),
    ),
    st.sampled_from("abcd"), st.integers(0, 10**6), st.integers(0, 10), st.integers(0, 10**12), st.integers(0, 10**12),
    st.integers(0, 10**6),
)  # fmt: skip
runnings = st.builds(Running, st.just(TASK), st.just(MODEL), st.integers(0, 10**12), st.integers(0, 10**9), st.booleans())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(deltas, max_size=4), st.lists(runnings, max_size=2)), max_size=12))
def test_no_evidence_makes_a_speed_that_cannot_be_used(rounds: list[tuple[list[Delta], list[Running]]]) -> None:
    """SAFETY: every speed and cost is a finite number above 0, and speeds stay within the bound of their median."""
    speeds = Speeds(prior_jobs=5)
    for at, (found, running) in enumerate(rounds):
        speeds.observe(found, [WorkerReport(f"{name}-1", name, 2, 1.5, WorkerTotals([], 0, running)) for name in "abcd"], at)
        given_out = [speeds.of(name)[MODEL] for name in "abcd" if MODEL in speeds.of(name)]
        assert all(0 < one < math.inf for one in given_out)
        assert not given_out or max(given_out) <= min(given_out) * BOUND**2 * 1.01
        assert all(0 < cost_ms < math.inf for *_, cost_ms in speeds.costs_ms())
        again = Speeds(prior_jobs=5)
        again.load(speeds.dump())


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_workers_does_not_matter(order: list[int]) -> None:
    """In which order a leader reads what the workers did in one second is nobody's decision."""
    fleet = Fleet({f"w{at}": 1.0 + at % 5 for at in range(24)})
    work = [fleet.work(f"w{at}") for at in order]
    fleet.speeds.observe([one for part in work for one in part], fleet.told(), 1)
    found = fleet.found()
    sorted_fleet = Fleet({f"w{at}": 1.0 + at % 5 for at in range(24)}).run(1)

    assert found == pytest.approx(sorted_fleet.found(), rel=1e-6)


def test_a_worker_that_slows_down_is_seen() -> None:
    """Ten times slower: within three jobs, and the others stay what they were."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()
    fleet.true["a"] = 0.8
    fleet.run(4)
    after = fleet.found()

    assert after["a"] < before["a"] / 5
    assert [after[name] / after["d"] for name in "bc"] == pytest.approx([before[name] / before["d"] for name in "bc"], rel=0.1)


def test_a_worker_that_recovers_is_seen() -> None:
    """The way back: a speed that is ten times what it was."""
    fleet = Fleet(UNLIKE | {"a": 0.8}).run(60)
    fleet.true["a"] = 8.0
    fleet.run(8)

    assert fleet.found()["a"] / fleet.found()["b"] == pytest.approx(2, rel=0.2)


def test_an_overrunning_job_is_seen_before_it_ends() -> None:
    """What should take 50 ms has run for 5 s: the worker counts as slower at once, and as before when the job ends in time after all."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()["a"]
    fleet.running["a"] = Running(TASK, MODEL, 5_000, 1_000, True)
    fleet.run(1, only="bcd")
    assert fleet.found()["a"] < before / 10
    del fleet.running["a"]
    fleet.run(1)

    assert fleet.found()["a"] == pytest.approx(before, rel=0.1)


def test_a_job_that_waits_for_its_model_is_not_late() -> None:
    """While its model is not in the worker's memory it is being loaded, however long that takes."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()["a"]
    fleet.running["a"] = Running(TASK, MODEL, 5_000, 1_000, True)
    fleet.memory = Memory([])
    fleet.run(1, only="bcd")
    assert fleet.found()["a"] == pytest.approx(before, rel=0.1)
    fleet.memory = Memory([MODEL])
    fleet.run(1, only="bcd")
    assert fleet.found()["a"] < before / 10


def test_a_job_that_is_not_late_says_nothing() -> None:
    """Jobs of a kind differ; up to three times the expected is not news."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()
    fleet.running["a"] = Running(TASK, MODEL, 140, 1_000, True)
    fleet.run(1, only="bcd")

    assert fleet.found()["a"] == pytest.approx(before["a"], rel=0.01)


def test_one_odd_job_moves_little() -> None:
    """A job that took a thousand times as long, among hundreds: less than a twentieth."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()["b"]
    fleet.speeds.observe([fleet.delta("b", 1, 100.0, 0.4)], fleet.told(), fleet.now_ms)

    assert before * 0.95 < fleet.found()["b"] < before


def test_jobs_that_fail_at_once_do_not_look_fast() -> None:
    """Only what was done is evidence of speed."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()
    failing = [Delta("a-1", "a", TASK, MODEL, 0, 500, 0, 0)]
    fleet.speeds.observe(failing, fleet.told(), fleet.now_ms)

    assert fleet.found() == pytest.approx(before, rel=0.01)


def test_the_weight_leads_until_there_is_evidence() -> None:
    """Two jobs do not overthrow what was configured; hundreds do."""
    weights = {"a": 4.0, "b": 1.0}
    few, many = Fleet({"a": 1.0, "b": 1.0}, weights=weights), Fleet({"a": 1.0, "b": 1.0}, weights=weights)
    few.speeds.observe([few.delta("a", 1, 0.4, 0.4), few.delta("b", 1, 0.4, 0.4)], few.told(), 1)
    many.run(300)

    assert few.found()["a"] / few.found()["b"] > 2.5
    assert many.found()["a"] / many.found()["b"] == pytest.approx(1, rel=0.1)


def test_the_unit_of_declared_costs_is_respected() -> None:
    """Producers that count in seconds on a worker of weight 1 see speeds in that unit; no worker is scaled to another mean."""
    fleet = Fleet(UNLIKE, declared=1.0).run(120)

    assert fleet.found() == pytest.approx(UNLIKE, rel=0.1)


def test_a_worker_that_joins_is_in_the_units_of_the_others() -> None:
    """Producers declare costs in thousandths: a worker of which nothing is known yet counts as the average of the fleet, not as 1."""
    fleet = Fleet({"a": 2.0, "b": 2.0}, declared=1_000.0).run(60)
    fleet.true["new"], fleet.owed["new"], fleet.epochs["new"] = 2.0, 0.0, "new-1"
    fleet.run(1, only="ab")

    assert fleet.found()["new"] == pytest.approx(fleet.found()["a"], rel=0.1)


def test_declared_costs_fix_the_unit_of_learned_ones() -> None:
    """Where some jobs of a model have a cost of their producer's, those that have none are learned in its unit."""
    fleet = Fleet(UNLIKE, declared=1.0)
    for _ in range(120):
        own = [one for name in UNLIKE for one in fleet.work(name)]
        other = [Delta(f"{name}-1", name, "u", MODEL, 10, 0, round(3_000 / speed), 10_000, 0, 10, round(3_000 / speed), 10_000)
                 for name, speed in UNLIKE.items()]  # fmt: skip
        fleet.now_ms += 1_000
        fleet.speeds.observe([*own, *other], fleet.told(), fleet.now_ms)

    assert fleet.found() == pytest.approx(UNLIKE, rel=0.1)
    (learned,) = fleet.speeds.costs_ms()
    assert learned == ("u", MODEL, pytest.approx(300, rel=0.1))


def test_a_restarted_worker_does_not_start_from_nothing() -> None:
    """Its measurements stand under its name, and count for less than those of a life that goes on: its machine may be another."""
    fleet = Fleet(UNLIKE).run(60)
    before = fleet.found()["a"]
    fleet.epochs["a"] = "a-2"
    fleet.run(1, only="bcd")
    assert fleet.found()["a"] > before * 0.6
    fleet.true["a"] = 2.0
    fleet.run(12)

    assert fleet.found()["a"] / fleet.found()["c"] == pytest.approx(1, rel=0.3)


def test_a_successor_knows_what_was_learned() -> None:
    """At once, before anybody told it anything, and from then on as if nothing had happened."""
    fleet = Fleet(UNLIKE).run(60)
    expected, cost = fleet.found(), fleet.cost()
    fleet.now_ms += 60_000
    fleet.speeds.observe([], fleet.told(), fleet.now_ms)
    state = fleet.speeds.dump()
    fleet.speeds = Speeds(**fleet.options)
    fleet.speeds.load(state)
    assert fleet.found() == pytest.approx(expected)
    fleet.speeds.observe([], fleet.told(), fleet.now_ms)

    assert fleet.found() == pytest.approx(expected, rel=0.01)
    assert fleet.cost() == pytest.approx(cost, rel=0.01)


def test_measuring_can_be_switched_off() -> None:
    """Then weights are what counts, and costs are learned by them."""
    fleet = Fleet(UNLIKE, weights=UNLIKE, measured=False).run(60)

    assert all(not fleet.speeds.of(name) for name in UNLIKE)
    assert fleet.cost() == pytest.approx(0.4, rel=0.05)


def test_names_of_workers_that_are_gone_do_not_pile_up() -> None:
    """The last thousand may return; those before are forgotten."""
    speeds = Speeds(prior_jobs=5)
    for at in range(GONE_MAX + 100):
        name = f"spot-{at}"
        speeds.observe([Delta("e", name, TASK, MODEL, 1, 0, 100, 1_000)], [WorkerReport("e", name, 1, 1.0, WorkerTotals())], at)
    saved = msgspec.json.decode(speeds.dump())

    assert len(saved["rates"]) <= GONE_MAX + 1
    assert f"spot-{GONE_MAX + 99}" in saved["rates"]


def test_a_kind_that_is_new_is_learned_by_what_is_known_of_the_workers() -> None:
    """One worker runs it first; what others will take follows from their speeds."""
    fleet = Fleet(UNLIKE).run(60)
    fleet.speeds.observe([Delta("d-1", "d", "new", MODEL, 10, 0, 30_000, 10_000, 0, 10, 30_000, 10_000)], fleet.told(), fleet.now_ms)
    (cost_ms,) = (cost_ms for task, _, cost_ms in fleet.speeds.costs_ms() if task == "new")

    assert cost_ms / 1000 / fleet.found()["a"] == pytest.approx(3.0 / 8, rel=0.15)


def test_jobs_that_do_nothing_say_nothing_of_the_others() -> None:
    """Hundreds of jobs of a ms take as long everywhere; a few of half a second show how fast each worker is."""
    fleet = Fleet(UNLIKE)
    for _ in range(60):
        own = [one for name in UNLIKE for one in fleet.work(name)]
        empty = [Delta(f"{name}-1", name, "ping", MODEL, 40, 0, 40, 40_000, 0, 40, 40, 40_000) for name in UNLIKE]
        fleet.now_ms += 1_000
        fleet.speeds.observe([*empty, *own], fleet.told(), fleet.now_ms)

    assert ratios(fleet.found(), UNLIKE) == pytest.approx([1.0] * 4, rel=0.1)


def test_a_mean_moves_over_its_memory() -> None:
    """After a few hundred jobs it is the new mean, by small steps."""
    rate = Rate()
    for _ in range(300):
        rate.observe(100.0, 1)
    for _ in range(300):
        rate.observe(150.0, 1)

    assert rate.mean == pytest.approx(147.5, rel=0.01)
