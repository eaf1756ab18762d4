"""Suspects get a worker each, the others keep most of the fleet."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.facts.snapshot import LaneView, WorkerView
from dispatcher.core.returns.suspects import SHARE, Quarantine, place_suspects
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

FILTERS = standard_filters(stall_ms=STALL_MS)


def place(
    *workers: WorkerView, lanes: tuple[LaneView, ...] = (), alone: Collection[str] = (), emptying: Collection[str] = (),
    paused: Collection[str] = (),
) -> Quarantine:  # fmt: skip
    return place_suspects(lanes or (suspects(),), workers, FILTERS, alone=alone, emptying=emptying, paused=paused)


def suspects(depth: int = 1, **facts: object) -> LaneView:
    return lane_view(depth=depth, alone=True, **facts)  # type: ignore[arg-type]


def busy(epoch: str, owes_ms: int, **facts: object) -> WorkerView:
    return worker_view(epoch, **({"leases": 1, "taken": 1, "leased_cost_ms": owes_ms} | facts))


def test_an_empty_worker_is_taken_at_once() -> None:
    """The fastest of them."""
    found = place(busy("a", 10), worker_view("b"), worker_view("c", weight=2.0))
    assert found.assign == ((suspects().name, "c"),)
    assert found.emptying == frozenset()
    assert found.holds == ()


def test_where_none_is_empty_the_one_that_will_be_soonest_is_emptied() -> None:
    """By the work it owes and its speed; the suspect waits, and says why."""
    found = place(busy("a", 9_000), busy("b", 8_000, weight=2.0), busy("c", 5_000))
    assert found.assign == ()
    assert found.emptying == {"b"}
    (hold,) = found.holds
    assert (hold.reason, hold.jobs) == ("alone", 1)


def test_it_keeps_to_the_one_that_is_being_emptied() -> None:
    """Though another would be done sooner by now; unless that is empty."""
    assert place(busy("a", 9_000), busy("b", 1), emptying={"a"}).emptying == {"a"}
    assert place(busy("a", 9_000), worker_view("b"), emptying={"a"}).assign == ((suspects().name, "b"),)


def test_most_workers_stay_for_the_others() -> None:
    """One in some workers is kept, however many suspects wait; where one runs, that one counts."""
    fleet = [worker_view(f"w{i}") for i in range(2 * SHARE)]
    found = place(*fleet, lanes=(suspects(9),))
    assert len(found.assign) == 2
    assert [hold.jobs for hold in found.holds] == [7]
    assert len(place(*fleet, lanes=(suspects(9),), alone={"w3"}).assign) == 1
    assert place(worker_view("a"), worker_view("b"), alone={"a"}).assign == ()


def test_the_oldest_comes_first_and_none_bars_the_way() -> None:
    """A suspect that no worker may have is told of, and the next is placed."""
    old, new = suspects(admitted_ms=1, cost_ms=5), suspects(admitted_ms=2)
    lost = suspects(model="chat")
    found = place(worker_view("a"), lanes=(lost, new, old))
    assert len(found.assign) == 1
    assert {hold.lane: hold.reason for hold in found.holds}[lost.name] == "unroutable"
    assert place(worker_view("a", ejected="faulty")).holds[0].reason == "unroutable"


def test_a_paused_queue_holds_its_suspects_too() -> None:
    """Told as any other hold."""
    for paused in ({"dispatch"}, {"*"}):
        found = place(worker_view("a"), paused=paused)
        assert (found.assign, [hold.reason for hold in found.holds]) == ((), ["paused"])


@given(
    loads=st.lists(st.integers(0, 3), min_size=1, max_size=24), depths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    alone=st.sets(st.integers(0, 23)), emptying=st.sets(st.integers(0, 23)),
)  # fmt: skip
def test_a_suspect_never_shares_a_worker(loads: list[int], depths: list[int], alone: set[int], emptying: set[int]) -> None:
    """It goes to one that owes nothing and has none yet, each once; no more are kept than may be, and where one may be, one is."""
    workers = [worker_view(f"w{i}", leases=load, taken=load, leased_cost_ms=load) for i, load in enumerate(loads)]
    lanes = tuple(suspects(depth, cost_ms=2**i) for i, depth in enumerate(depths))
    there = {f"w{i}" for i in alone if i < len(loads)}
    found = place(*workers, lanes=lanes, alone=there, emptying={f"w{i}" for i in emptying})
    given_to = [epoch for _, epoch in found.assign]

    assert len(set(given_to)) == len(given_to)
    assert not (set(given_to) | found.emptying) & there
    assert all(loads[int(epoch[1:])] == 0 for epoch in given_to)
    assert all(loads[int(epoch[1:])] > 0 for epoch in found.emptying)
    most = max(1, len(workers) // SHARE)
    assert len(given_to) + len(found.emptying) == max(0, min(most - len(there), sum(depths), len(workers) - len(there)))
    assert sum(hold.jobs for hold in found.holds) == sum(depths) - len(given_to)
