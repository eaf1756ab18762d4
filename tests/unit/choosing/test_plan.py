"""``plan`` over any snapshot: what it must never do, and what it must not leave undone."""

from __future__ import annotations

from collections import Counter
from random import Random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.explain import refusals
from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.place import loads
from dispatcher.core.choosing.place.roster import usable
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import HoldRule, Policy, Stickiness
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts import labels
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

FILTERS = standard_filters(stall_ms=STALL_MS)
INGRESS, TASKS, MODELS = ("dispatch", "gpu"), ("t.one", "t.two"), ("minilm", "chat@1")


def subset(of: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(of))


workers = st.builds(
    worker_view,
    concurrency=st.integers(1, 4),
    weight=st.sampled_from([0.1, 0.5, 1.0, 2.0, 4.0]),
    ingress=subset(INGRESS),
    tasks=subset(TASKS),
    models=subset(MODELS),
    leases=st.integers(0, 8),
    leased_cost_ms=st.integers(0, 20_000),
    window=st.integers(0, 10),
    draining=st.sampled_from(["", "", "", "exit", "keep"]),
    consume_age_ms=st.sampled_from([0, 0, STALL_MS, STALL_MS + 1]),
    ended=st.sampled_from([None, None, None, "silent"]),
    loop_lag_ms=st.sampled_from([0, 0, STALL_MS + 1]),
    ejected=st.sampled_from(["", "", "fails"]),
    resident=st.sampled_from([None, frozenset(), frozenset({"minilm"}), frozenset(MODELS)]),
    models_max=st.integers(0, 2),
)
lanes = st.builds(
    lane_view,
    ingress=st.sampled_from(INGRESS),
    task=st.sampled_from(TASKS),
    model=st.sampled_from(("default", *MODELS)),
    step=st.sampled_from([0, 3, 6, 9]),
    depth=st.integers(1, 40),
    cost_ms=st.sampled_from([0, 1, 100, 1_000, 60_000]),
    admitted_ms=st.integers(0, 50),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    fleet = [structs.replace(one, epoch=f"e{i}", name=f"w{i}@h") for i, one in enumerate(draw(st.lists(workers, max_size=7)))]
    waiting = {one.name: one for one in draw(st.lists(lanes, max_size=8))}
    paused = draw(st.sampled_from([frozenset(), frozenset(), frozenset({"gpu"}), frozenset({"*"})]))
    load_ms = draw(st.sampled_from([{}, {}, {"minilm": 20}, {"minilm": 5_000, "chat": 60_000}]))
    return Snapshot(1_000_000, True, paused, tuple(waiting.values()), tuple(fleet), load_ms=load_ms)


cases = st.tuples(snapshots(), st.sampled_from(sorted(STRATEGIES)), st.integers(0, 2**32), st.sampled_from([1, 7, 500]))
Case = tuple[Snapshot, str, int, int]


def planned(case: Case) -> Plan:
    snapshot, strategy, seed, jobs_max = case
    return plan(snapshot, PolicyState(), Policy(STRATEGIES[strategy], FILTERS), rng=Random(seed), jobs_max=jobs_max)


def test_a_task_that_a_worker_registers_later_is_given_to_it() -> None:
    """And one that it loses is not: what was derived of the fleet is derived again."""
    state, policy = PolicyState(), Policy(STRATEGIES["earliest_completion"], FILTERS)
    for tasks in (frozenset({"t.two"}), frozenset({"t.one", "t.two"}), frozenset({"t.two"})):
        snapshot = Snapshot(1_000_000, True, frozenset(), (lane_view(),), (worker_view(tasks=tasks),))
        made = plan(snapshot, state, policy, rng=Random(0), jobs_max=10)
        assert len(made.assignments) == ("t.one" in tasks)


def test_a_worker_that_could_not_read_a_job_does_not_get_it_again() -> None:
    """Whoever else may have it does, though busier."""
    lane = lane_view(requires=labels.without((), "e0"))
    fleet = (worker_view("e0"), worker_view("e1", leases=2, leased_cost_ms=9_000))
    snapshot = Snapshot(1_000_000, True, frozenset(), (lane,), fleet)
    made = plan(snapshot, PolicyState(), Policy(STRATEGIES["earliest_completion"], FILTERS), rng=Random(0), jobs_max=10)
    assert [given.epoch for given in made.assignments] == ["e1"]
    assert "reads" in refusals(lane, fleet[:1], FILTERS)


def test_a_job_that_only_workers_which_could_not_read_it_are_left_for_goes_to_them() -> None:
    """They bury it, and its sender is told; while another is there that may have it, be it full or stuck, it waits."""
    lane, state = lane_view(requires=labels.without((), "e0")), PolicyState()
    policy = Policy(STRATEGIES["earliest_completion"], FILTERS)
    given = []
    stuck = {"loop_lag_ms": STALL_MS + 1}
    for other in ({"leases": 3}, {"ended": "silent"}, stuck, {"draining": "exit"}, {"tasks": frozenset()}, {"ejected": "fails"}, None):
        fleet = (worker_view("e0"), *(() if other is None else (worker_view("e1", **other),)))
        snapshot = Snapshot(1_000_000, True, frozenset(), (lane,), fleet)
        made = plan(snapshot, state, policy, rng=Random(0), jobs_max=10)
        given.append([assign.epoch for assign in made.assignments])
    assert given == [[], ["e0"], [], ["e0"], ["e0"], [], ["e0"]]


def eligible(lane: LaneView, worker: WorkerView) -> bool:
    return all(one.refuses(lane.lane, worker) is None for one in FILTERS)


def is_paused(snapshot: Snapshot, lane: LaneView) -> bool:
    return bool(snapshot.paused & {"*", lane.lane.ingress})


def placed_by_lane(decided: Plan) -> Counter[str]:
    return sum((Counter({assignment.lane: assignment.count}) for assignment in decided.assignments), Counter())


def placed_by_worker(decided: Plan) -> Counter[str]:
    return sum((Counter({assignment.epoch: assignment.count}) for assignment in decided.assignments), Counter())


# ---- SAFETY


@given(cases)
def test_never_to_a_worker_that_a_filter_refuses(case: Case) -> None:
    """Dead, draining, stalled, without the task, the model or the queue: no job, by any strategy."""
    by_name = {lane.name: lane for lane in case[0].lanes}
    by_epoch = {worker.epoch: worker for worker in case[0].workers}
    for one in planned(case).assignments:
        assert eligible(by_name[one.lane], by_epoch[one.epoch])


@given(cases)
def test_never_above_a_window(case: Case) -> None:
    """Over all lanes together a worker gets no more than it has room for, and the window that assign is told is its own."""
    decided = planned(case)
    given_to = placed_by_worker(decided)
    for worker in case[0].workers:
        assert given_to[worker.epoch] <= worker.room
    windows = {worker.epoch: worker.window for worker in case[0].workers}
    assert all(assignment.window == windows[assignment.epoch] for assignment in decided.assignments)


@given(cases)
def test_never_more_than_waits(case: Case) -> None:
    """No lane gives more jobs than it has, no plan more than it was asked for, and no assignment is empty or stands twice."""
    snapshot, _, _, jobs_max = case
    decided = planned(case)
    placed = placed_by_lane(decided)

    assert all(placed[lane.name] <= lane.depth for lane in snapshot.lanes)
    assert placed.total() <= jobs_max
    assert all(assignment.count > 0 for assignment in decided.assignments)
    assert len({(assignment.lane, assignment.epoch) for assignment in decided.assignments}) == len(decided.assignments)


@given(cases)
def test_never_from_a_paused_queue(case: Case) -> None:
    """What an operator paused stays where it is, and says why."""
    decided = planned(case)
    held = {hold.lane: hold.reason for hold in decided.holds}
    for lane in case[0].lanes:
        if is_paused(case[0], lane):
            assert placed_by_lane(decided)[lane.name] == 0
            assert held[lane.name] == "paused"


@given(cases)
def test_the_same_again_under_the_same_seed(case: Case) -> None:
    """A decision can be replayed: equal snapshot, state and seed give an equal plan."""
    assert planned(case) == planned(case)


@given(cases, st.randoms(use_true_random=False))
def test_the_order_in_which_redis_lists_lanes_decides_nothing(case: Case, shuffler: Random) -> None:
    """Sets come out of Redis in any order; who is served must not hang on it."""
    snapshot, *rest = case
    shuffled = list(snapshot.lanes)
    shuffler.shuffle(shuffled)

    assert planned((structs.replace(snapshot, lanes=tuple(shuffled)), *rest)) == planned(case)


@given(cases)
def test_state_remembers_only_workers_that_are_there(case: Case) -> None:
    """What survives from plan to plan must not grow with every worker that ever was."""
    state = PolicyState(turn=3, last_turn={"gone": 2})
    snapshot, strategy, seed, jobs_max = case
    plan(snapshot, state, Policy(STRATEGIES[strategy], FILTERS), rng=Random(seed), jobs_max=jobs_max)

    there = {worker.epoch for worker in snapshot.workers}
    if STRATEGIES[strategy].turns:
        assert set(state.last_turn) == set(state.passed) == there
    assert set(state.memory.epochs) == there


# ---- LIVENESS


@given(cases)
def test_a_job_waits_only_if_every_eligible_worker_is_full(case: Case) -> None:
    """Work-conserving: after a plan that was not cut short, a lane with jobs left has no worker with room that may run them."""
    snapshot, _, _, jobs_max = case
    decided = planned(case)
    if placed_by_lane(decided).total() == jobs_max:
        return
    left_by_lane, given_to = placed_by_lane(decided), placed_by_worker(decided)
    for lane in snapshot.lanes:
        if left_by_lane[lane.name] < lane.depth and not is_paused(snapshot, lane):
            assert all(worker.room == given_to[worker.epoch] for worker in snapshot.workers if eligible(lane, worker))


@given(cases)
def test_a_lane_from_which_nothing_could_go_says_why(case: Case) -> None:
    """After a plan that was not cut short; `unroutable` means that nobody there may ever run it."""
    snapshot, _, _, jobs_max = case
    decided = planned(case)
    if placed_by_lane(decided).total() == jobs_max:
        return
    holds = {hold.lane: hold for hold in decided.holds}
    for lane in snapshot.lanes:
        able = [worker for worker in snapshot.workers if eligible(lane, worker)]
        if is_paused(snapshot, lane) or any(worker.room for worker in able):
            continue
        assert holds[lane.name].reason == ("full" if able else "unroutable")
        assert sum(count for count, _ in refusals(lane, snapshot.workers, FILTERS).values()) == len(snapshot.workers)


@given(cases)
def test_a_lower_priority_gets_only_what_a_higher_one_leaves(case: Case) -> None:
    """If a job of a higher priority waits, no job of a lower one went to a worker that could have run it."""
    snapshot, _, _, jobs_max = case
    decided = planned(case)
    placed = placed_by_lane(decided)
    by_name = {lane.name: lane for lane in snapshot.lanes}
    by_epoch = {worker.epoch: worker for worker in snapshot.workers}
    for high in snapshot.lanes:
        if placed[high.name] == high.depth or is_paused(snapshot, high):
            continue
        for one in decided.assignments:
            if by_name[one.lane].lane.step > high.lane.step:
                assert not eligible(high, by_epoch[one.epoch])


def test_lanes_of_a_priority_take_turns() -> None:
    """A lane of 10,000 jobs and two of ten, all admitted at once: when room is for 60, the small ones are done."""
    waiting = [lane_view(task=name, depth=depth) for name, depth in (("huge", 10_000), ("small", 10), ("little", 10))]
    worker = worker_view(window=60, tasks=frozenset({"huge", "small", "little"}))

    placed = placed_by_lane(planned((Snapshot(0, True, frozenset(), tuple(waiting), (worker,)), "least_work", 1, 500)))

    assert [placed[lane.name] for lane in waiting] == [40, 10, 10]


def test_no_lane_of_a_priority_starves() -> None:
    """One slot comes free a tick and 20 lanes are never empty: the oldest head goes first, so each is served in turn."""
    names = [f"task{i:02}" for i in range(20)]
    heads = dict.fromkeys(names, 0)
    served: Counter[str] = Counter()
    state = PolicyState()
    worker = worker_view(window=1, tasks=frozenset(names))
    for tick in range(200):
        waiting = tuple(lane_view(task=name, depth=100, admitted_ms=heads[name]) for name in names)
        decided = plan(
            Snapshot(tick, True, frozenset(), waiting, (worker,)),
            state,
            Policy(STRATEGIES["least_work"], FILTERS),
            rng=Random(tick),
        )
        (one,) = decided.assignments
        task = next(lane.lane.task for lane in waiting if lane.name == one.lane)
        served[task] += 1
        heads[task] = tick + 1  # the next job of that lane came later

    assert set(served.values()) == {10}


def test_more_lanes_than_a_plan_has_turns_are_all_served_in_the_end() -> None:
    """A plan that is cut short begins with the oldest, so what it left is first in the next."""
    names = [f"task{i:03}" for i in range(100)]
    depth = dict.fromkeys(names, 16)
    worker = worker_view(window=100_000, tasks=frozenset(names))
    head = dict.fromkeys(names, 0)
    served: list[set[str]] = []
    for tick in range(1, 4):
        waiting = tuple(lane_view(task=name, depth=depth[name], admitted_ms=head[name]) for name in names if depth[name])
        case = (Snapshot(tick, True, frozenset(), waiting, (worker,)), "least_work", tick, 500)
        by_name = {lane.name: lane.lane.task for lane in waiting}
        placed = {by_name[name]: count for name, count in placed_by_lane(planned(case)).items()}
        served.append(set(placed))
        for name, count in placed.items():
            depth[name] -= count
            head[name] = tick

    assert served[0] | served[1] == set(names)


@given(st.lists(workers, max_size=7))
def test_a_filter_answers_for_many_workers_as_for_each(fleet: list[WorkerView]) -> None:
    """What ``keeps`` keeps is what ``refuses`` does not refuse."""
    lane = lane_view().lane
    for one in FILTERS:
        if one.of_worker:
            assert usable(fleet, [one]) == [i for i, worker in enumerate(fleet) if one.refuses(lane, worker) is None]


@given(cases, workers, st.integers(0, 20), st.booleans())
def test_what_is_kept_from_plan_to_plan_changes_no_decision(case: Case, other: WorkerView, changed: int, as_arrays: bool) -> None:
    """One worker of many is not as it was: the plan that remembers the others decides as one that has seen none of them before."""
    snapshot, name, seed, jobs_max = case
    policy = Policy(STRATEGIES[name], FILTERS, hold=HoldRule(1.5, 2_000_000), sticky=Stickiness(1_000, 2_000_000))
    many = [structs.replace(one, epoch=f"{one.epoch}.{i}", name=f"{i}.{one.name}") for i in range(4) for one in snapshot.workers]
    state = PolicyState()
    with mock.patch.object(loads, "SMALL", 0 if as_arrays else loads.SMALL):
        plan(structs.replace(snapshot, workers=tuple(many)), state, policy, rng=Random(seed), jobs_max=jobs_max)
        if many:
            before = many[changed % len(many)]
            many[changed % len(many)] = structs.replace(
                before, leases=other.leases, leased_cost_ms=other.leased_cost_ms, window=other.window, draining=other.draining,
                ended=other.ended, ejected=other.ejected, speeds={"default": 3.0} if other.taken else {}, warmth=1.0 / (1 + other.leases),
            )  # fmt: skip
        later = structs.replace(snapshot, workers=tuple(many))
        remembering = plan(later, PolicyState(memory=state.memory), policy, rng=Random(seed), jobs_max=jobs_max)
        anew = plan(later, PolicyState(), policy, rng=Random(seed), jobs_max=jobs_max)

    assert remembering == anew


# ---- large fleets are scored over arrays


@given(cases, st.sampled_from([0.0, 1.5]), st.booleans())
def test_arrays_decide_as_well_as_numbers(case: Case, ratio: float, sticky: bool) -> None:
    """Scored at once or one by one, a plan gives out as many jobs of each lane, at the same scores where nothing was drawn by chance."""
    snapshot, name, seed, jobs_max = case
    hold = HoldRule(ratio, 2_000_000) if ratio else None
    policy = Policy(STRATEGIES[name], FILTERS, hold=hold, sticky=Stickiness(1_000, 2_000_000) if sticky else None)
    few = plan(snapshot, PolicyState(), policy, rng=Random(seed), jobs_max=jobs_max)
    with mock.patch.object(loads, "SMALL", 0), mock.patch.multiple(loads, KEPT_MIN=2, KEPT_MAX=2):
        many = plan(snapshot, PolicyState(), policy, rng=Random(seed), jobs_max=jobs_max)

    if not STRATEGIES[name].draws and not STRATEGIES[name].turns:
        assert placed_by_lane(many) == placed_by_lane(few)
        assert [(one.lane, one.reason, one.jobs) for one in many.holds] == [(one.lane, one.reason, one.jobs) for one in few.holds]
    assert placed_by_lane(many).total() == placed_by_lane(few).total()
    given_to = placed_by_worker(many)
    assert all(given_to[worker.epoch] <= worker.room for worker in snapshot.workers)
