"""The conformance suite: what every strategy keeps, and what each promises beyond."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from itertools import groupby, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.protocols import Load, Strategy
from dispatcher.core.choosing.strategies import STRATEGIES, strategy
from dispatcher.core.choosing.strategies.weighted_least_connections import WeightedLeastConnections
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.errors import Invalid
from dispatcher.settings import Settings
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

FILTERS = standard_filters(stall_ms=STALL_MS)

every_strategy = pytest.mark.parametrize("one", list(STRATEGIES.values()), ids=list(STRATEGIES))


def choose(
    one: Strategy, lanes: list[LaneView], workers: list[WorkerView], *, state: PolicyState | None = None, seed: int = 1
) -> Counter[str]:
    """Jobs by worker name that one plan gives."""
    snapshot = Snapshot(0, True, frozenset(), tuple(lanes), tuple(workers))
    decided = plan(snapshot, state or PolicyState(), Policy(one, FILTERS), rng=Random(seed), jobs_max=10_000)
    names = {worker.epoch: worker.name for worker in workers}
    found: Counter[str] = Counter()
    for assign in decided.assignments:
        found[names[assign.epoch]] += assign.count
    return found


def fleet(*capacities: float, window: int = 3, **facts: object) -> list[WorkerView]:
    return [worker_view(f"e{i}", name=f"w{i}", weight=capacity, window=window, **facts) for i, capacity in enumerate(capacities)]


@every_strategy
def test_its_name_is_its_entry(one: Strategy) -> None:
    """The name in the settings finds it."""
    assert strategy(one.name) is one


def test_an_unknown_name_is_invalid() -> None:
    """With the names that there are."""
    with pytest.raises(Invalid, match=r"there are earliest_completion, .*round_robin"):
        strategy("fastest")


@every_strategy
@pytest.mark.parametrize(
    "unfit",
    [
        {"ended": "silent"},
        {"draining": "exit"},
        {"draining": "keep"},
        {"consume_age_ms": STALL_MS + 1},
        {"tasks": frozenset({"t.two"})},
        {"ingress": frozenset({"gpu"})},
        {"models": frozenset({"chat@1"})},
        {"leases": 3},
        {"window": 0},
    ],
    ids=str,
)
def test_an_unfit_worker_gets_nothing(one: Strategy, unfit: dict[str, object]) -> None:
    """However idle and however strong it is; what fits takes its share."""
    lane = lane_view(model="minilm", depth=10)
    fit = worker_view("fit", name="fit", models=frozenset({"minilm"}), leases=2, leased_cost_ms=90_000)
    idle = worker_view("unfit", name="unfit", weight=100.0, **({"models": frozenset({"minilm"})} | unfit))

    assert choose(one, [lane], [idle, fit]) == {"fit": 1}


@every_strategy
@given(
    room=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    weights=st.lists(st.sampled_from([0.1, 1.0, 7.0]), min_size=8, max_size=8),
    depth=st.integers(1, 60),
)
def test_it_conserves_work(one: Strategy, room: list[int], weights: list[float], depth: int) -> None:
    """All that waits is placed, or every worker is full."""
    workers = [worker_view(f"e{i}", name=f"w{i}", weight=weights[i], leases=1, window=1 + free) for i, free in enumerate(room)]
    placed = choose(one, [lane_view(depth=depth)], workers)

    assert placed.total() == min(depth, sum(room))
    assert all(placed[f"w{i}"] <= free for i, free in enumerate(room))


@every_strategy
def test_the_same_seed_gives_the_same_choice(one: Strategy) -> None:
    """And not every seed does: ties are broken by chance, not by who stands first in a dict."""
    workers = fleet(1, 1, 1, 1)
    firsts = {seed: tuple(choose(one, [lane_view()], workers, seed=seed)) for seed in range(30)}

    assert firsts == {seed: tuple(choose(one, [lane_view()], workers, seed=seed)) for seed in range(30)}
    assert len(set(firsts.values())) == 4


@every_strategy
@given(
    weight=st.floats(0.01, 100),
    concurrency=st.integers(1, 64),
    costs=st.lists(st.integers(0, 1_000_000), min_size=1, max_size=20),
)
def test_its_score_does_not_fall_while_the_load_grows(one: Strategy, weight: float, concurrency: int, costs: list[int]) -> None:
    """The plan relies on it: a stale score may only be too good."""
    load, scores = Load(0, 0, concurrency), []
    for turn, cost_ms in enumerate(costs, 1):
        scores.append(one.score(costs[0], load, weight))
        load = Load(load.leases + 1, load.cost_ms + cost_ms, concurrency, turn)

    assert all(before <= after for before, after in pairwise(scores))


def test_least_work_shares_a_backlog_by_capacity() -> None:
    """Weights 4:2:1 and no limit on windows: 700 jobs go 400:200:100."""
    placed = choose(STRATEGIES["least_work"], [lane_view(depth=700)], fleet(4, 2, 1, window=10_000))

    assert [round(placed[name], -1) for name in ("w0", "w1", "w2")] == [400, 200, 100]


@given(st.lists(st.floats(0.25, 8), min_size=2, max_size=6), st.sampled_from([100, 1_000, 30_000]))
def test_least_work_shares_come_out_as_capacities(weights: list[float], cost_ms: int) -> None:
    """For any fleet: each worker's share of a long backlog is within one job of its share of the capacity, and then some rounding."""
    jobs = 600
    placed = choose(STRATEGIES["least_work"], [lane_view(depth=jobs, cost_ms=cost_ms)], fleet(*weights, window=10_000))
    for i, weight in enumerate(weights):
        assert abs(placed[f"w{i}"] - jobs * weight / sum(weights)) <= len(weights)


def test_least_work_counts_slots_as_capacity() -> None:
    """Four slots of weight 1 are as much as one slot of weight 4."""
    workers = [worker_view("e0", name="w0", concurrency=4, window=1_000), worker_view("e1", name="w1", weight=4.0, window=1_000)]
    placed = choose(STRATEGIES["least_work"], [lane_view(depth=200)], workers)

    assert placed == {"w0": 100, "w1": 100}


def test_least_work_weighs_cost_not_count() -> None:
    """One job of an hour is not two of a second."""
    busy = worker_view("e0", name="busy", leases=1, leased_cost_ms=3_600_000, window=10)
    brisk = worker_view("e1", name="brisk", leases=2, leased_cost_ms=2_000, window=10)

    assert choose(STRATEGIES["least_work"], [lane_view(depth=5)], [busy, brisk]) == {"brisk": 5}


def test_least_work_prefers_a_strong_worker_that_owes_more() -> None:
    """What counts is when it would have worked off all it owes, this job included."""
    strong = worker_view("e0", name="strong", weight=4.0, leases=1, leased_cost_ms=2_000, window=10)
    weak = worker_view("e1", name="weak", window=10)

    assert choose(STRATEGIES["least_work"], [lane_view(depth=1, cost_ms=1_000)], [strong, weak]) == {"strong": 1}


@given(st.integers(1, 8), st.integers(1, 100), st.integers(0, 100))
def test_round_robin_gives_equal_turns(size: int, depth: int, seed: int) -> None:
    """Over one plan, no worker has two turns more than another, whatever its weight."""
    workers = fleet(*[2.0**i for i in range(size)], window=1_000)
    placed = choose(STRATEGIES["round_robin"], [lane_view(depth=depth)], workers, seed=seed)
    turns = [placed[worker.name] for worker in workers]

    assert max(turns) - min(turns) <= 1


def test_round_robin_goes_on_where_it_stopped() -> None:
    """From plan to plan whose turn it is is remembered: twelve plans of one job give four workers three each."""
    state, workers = PolicyState(), fleet(1, 1, 1, 1, window=1_000)
    served: Counter[str] = Counter()
    for tick in range(12):
        served += choose(STRATEGIES["round_robin"], [lane_view()], workers, state=state, seed=tick)

    assert set(served.values()) == {3}


def test_round_robin_gives_a_newcomer_one_turn_not_all() -> None:
    """It comes first once; it does not make up for the turns it was not there for."""
    state, workers = PolicyState(), fleet(1, 1, window=1_000)
    choose(STRATEGIES["round_robin"], [lane_view(depth=100)], workers, state=state)
    newcomer = structs.replace(workers[0], epoch="new", name="new")
    placed = choose(STRATEGIES["round_robin"], [lane_view(depth=30)], [*workers, newcomer], state=state)

    assert set(placed.values()) == {10}


def test_every_strategy_is_in_the_documents() -> None:
    """The meaning of the setting names them all."""
    (knob,) = (one for one in fields(Settings) if one.name == "strategy")

    assert [name for name in STRATEGIES if name not in knob.metadata["doc"]] == []


@every_strategy
def test_none_is_forgotten(one: Strategy) -> None:
    """No starvation: under a backlog larger than all windows but one, every worker gets some, however weak it is."""
    placed = choose(one, [lane_view(depth=400)], fleet(4, 1, 0.25, window=150))

    assert min(placed[f"w{i}"] for i in range(3)) >= 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 50), st.integers(0, 100))
def test_weighted_round_robin_is_smooth(weights: list[int], jobs: int, seed: int) -> None:
    """At every point, job by job, each worker has had its share of the turns to within one for itself and half a one for each other."""
    state, workers = PolicyState(), fleet(*[float(weight) for weight in weights], window=1_000)
    served: Counter[str] = Counter()
    for number in range(1, jobs + 1):
        served += choose(STRATEGIES["weighted_round_robin"], [lane_view()], workers, state=state, seed=seed)
        for i, weight in enumerate(weights):
            assert abs(served[f"w{i}"] - number * weight / sum(weights)) <= 1 + len(weights) / 2


def test_weighted_round_robin_is_smooth_as_nginx() -> None:
    """Weights 5:1:1, as in its commit message: of seven turns the strong one has five, and not more in a row."""
    state, workers, order = PolicyState(), fleet(5, 1, 1, window=1_000), []
    for number in range(70):
        order += choose(STRATEGIES["weighted_round_robin"], [lane_view()], workers, state=state, seed=number)

    assert Counter(order) == {"w0": 50, "w1": 10, "w2": 10}
    assert max(len(list(run)) for name, run in groupby(order) if name == "w0") <= 5


def test_weighted_round_robin_does_not_make_up_for_turns_missed() -> None:
    """A worker that was full for 90 turns takes its share from then on, no more; a newcomer too."""
    state, workers = PolicyState(), fleet(1, 1, window=1_000)
    one = STRATEGIES["weighted_round_robin"]
    choose(one, [lane_view(depth=10)], workers, state=state)
    choose(one, [lane_view(depth=90)], [workers[0], structs.replace(workers[1], leases=1_000)], state=state)
    newcomer = structs.replace(workers[0], epoch="new", name="new")
    placed = choose(one, [lane_view(depth=90)], [*workers, newcomer], state=state)

    assert all(28 <= placed[name] <= 32 for name in ("w0", "w1", "new"))


def test_random_is_uniform() -> None:
    """Whatever they can do: 4,000 jobs over four workers come out as 1,000 each, to within five standard deviations."""
    placed = choose(STRATEGIES["random"], [lane_view(depth=4_000)], fleet(8, 1, 1, 0.1, window=10_000))

    assert all(abs(count - 1_000) <= 140 for count in placed.values())


def test_power_of_two_keeps_queues_even() -> None:
    """The longest queue of equals is within a few of the mean, where chance alone would spread them by its square root."""
    workers = fleet(*[1.0] * 50, window=10_000)
    two, one = (choose(STRATEGIES[name], [lane_view(depth=5_000)], workers) for name in ("power_of_two", "random"))

    assert max(two.values()) <= 104
    assert max(one.values()) > max(two.values())


def test_least_connections_counts_jobs_and_nothing_else() -> None:
    """Two leases of a second are more than one of an hour, and weight says nothing."""
    busy = worker_view("e0", name="busy", leases=1, leased_cost_ms=3_600_000, window=10)
    brisk = worker_view("e1", name="brisk", weight=9.0, leases=2, leased_cost_ms=2_000, window=10)

    assert choose(STRATEGIES["least_connections"], [lane_view()], [busy, brisk]) == {"busy": 1}


def test_weighted_least_connections_shares_by_capacity() -> None:
    """Weights 4:2:1 and no limit on windows: 700 jobs go 400:200:100; a bias of 0 gives all to the strongest."""
    placed = choose(STRATEGIES["weighted_least_connections"], [lane_view(depth=700)], fleet(4, 2, 1, window=10_000))

    assert [round(placed[name], -1) for name in ("w0", "w1", "w2")] == [400, 200, 100]
    assert choose(WeightedLeastConnections(bias=0.0), [lane_view(depth=9)], fleet(4, 2, 1, window=99)) == {"w0": 9}


def test_earliest_completion_keeps_a_heavy_job_off_a_weak_worker() -> None:
    """The strong one owes a second and will be done with both in 2.75 s; the idle weak one would take ten."""
    strong = worker_view("e0", name="strong", weight=4.0, leases=1, leased_cost_ms=1_000, window=10)
    weak = worker_view("e1", name="weak", weight=1.0, window=10)
    one = STRATEGIES["earliest_completion"]

    assert choose(one, [lane_view(cost_ms=10_000)], [strong, weak]) == {"strong": 1}
    assert choose(one, [lane_view(cost_ms=200)], [strong, weak]) == {"weak": 1}


def test_earliest_completion_respects_slots() -> None:
    """With a free slot the job starts at once, however much the other slots owe; with none it waits for the first to end."""
    slots = worker_view("e0", name="slots", concurrency=4, leases=3, leased_cost_ms=3_000, window=10)
    fast = worker_view("e1", name="fast", weight=2.0, leases=1, leased_cost_ms=1_000, window=10)
    one = STRATEGIES["earliest_completion"]

    assert one.score(1_000, Load(3, 3_000, 4), 1.0) == 1_000
    assert one.score(1_000, Load(4, 4_000, 4), 1.0) == 1_250
    assert one.score(1_000, Load(7, 7_000, 4), 1.0) == 2_000
    assert one.score(1_000, Load(1, 1_000, 1), 2.0) == 1_000
    assert choose(one, [lane_view(cost_ms=1_000)], [structs.replace(slots, leases=4, leased_cost_ms=4_000), fast]) == {"fast": 1}


@every_strategy
@given(
    loads=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 90_000), st.integers(1, 8), st.integers(0, 99), st.floats(0, 9)), min_size=1, max_size=9
    ),
    cost_ms=st.integers(1, 1_000_000),
)
def test_arrays_give_the_score_that_numbers_give(one: Strategy, loads: list[tuple[int, int, int, int, float]], cost_ms: int) -> None:
    """A large fleet is scored at once, a small one worker by worker: by one formula, to the last bit."""
    speeds = [0.5 + index for index in range(len(loads))]
    columns = [np.array(column, dtype=float) for column in zip(*loads, strict=True)]
    at_once = one.score(cost_ms, Load(*columns), np.array(speeds))  # type: ignore[arg-type]

    assert list(at_once) == [one.score(cost_ms, Load(*load), speed) for load, speed in zip(loads, speeds, strict=True)]
