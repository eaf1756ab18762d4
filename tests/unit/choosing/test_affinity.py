"""Stickiness: which worker a slot belongs to, who moves when workers come and go, and when a job leaves its home."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.place.affinity import Rendezvous, stable_hash
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.policy import Policy, Stickiness
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.lane import SLOTS
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from tests.unit.facts.snapshots import STALL_MS, lane_view, worker_view

STICKY = Stickiness(wait_ms=2_000, hold_max_ms=30_000)


def homes(workers: list[WorkerView]) -> dict[int, str]:
    rendezvous = Rendezvous(range(len(workers)), workers)
    return {slot: workers[rendezvous.home(slot)].name for slot in range(SLOTS)}


def fleet(count: int, **facts: object) -> list[WorkerView]:
    return [worker_view(f"e{i}", name=f"gpu{i}@host", **facts) for i in range(count)]


def decide(
    lanes: list[LaneView], workers: list[WorkerView], *, sticky: Stickiness = STICKY, strategy: str = "earliest_completion", now_ms: int = 0
) -> Plan:
    policy = Policy(STRATEGIES[strategy], standard_filters(stall_ms=STALL_MS), sticky=sticky)
    return plan(Snapshot(now_ms, True, frozenset(), tuple(lanes), tuple(workers)), PolicyState(), policy, rng=Random(1))


def test_a_hash_is_the_same_everywhere() -> None:
    """In every process, on every machine, after every upgrade: homes must not move because a dispatcher was restarted."""
    assert stable_hash("gpu1@host") == 0x77A4B33BE58F3A7F


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.data())
def test_a_worker_that_leaves_moves_only_its_own_slots(count: int, data: st.DataObject) -> None:
    """All others stay where they are; and when it comes back, under its name, it has its own again."""
    workers = fleet(count)
    gone = data.draw(st.integers(0, count - 1))
    before, after = homes(workers), homes([one for i, one in enumerate(workers) if i != gone])

    assert {slot for slot in before if before[slot] != after[slot]} == {slot for slot in before if before[slot] == workers[gone].name}
    assert homes([structs.replace(worker, epoch="another life") for worker in workers]) == before


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 12))
def test_a_worker_that_joins_takes_from_the_others_and_moves_nothing_between_them(count: int) -> None:
    """What moves, moves to it."""
    workers = fleet(count + 1)
    before, after = homes(workers[:-1]), homes(workers)

    assert {after[slot] for slot in before if before[slot] != after[slot]} <= {workers[-1].name}


def test_slots_are_shared_by_capacity() -> None:
    """Over many fleets of names, workers of 8 : 4 : 2 : 2 have so many slots each, to within what chance does to so many of them."""
    found: Counter[int] = Counter()
    for number in range(15):
        weights = {f"{number}-{i}": weight for i, weight in enumerate((8, 4, 2, 2))}
        workers = [worker_view(name, name=name, weight=float(weight)) for name, weight in weights.items()]
        for name in homes(workers).values():
            found[int(name.partition("-")[2])] += 1

    assert all(abs(found[i] / found.total() - share) < 0.015 for i, share in enumerate((0.5, 0.25, 0.125, 0.125)))


def test_a_slot_goes_home_while_home_has_room() -> None:
    """However much less the others have to do, as long as the wait at home is within what stickiness is worth."""
    workers = fleet(4, concurrency=2, window=4, leases=2, leased_cost_ms=1_000)
    home = homes(workers)[7]
    idle = [worker if worker.name == home else structs.replace(worker, leases=0, leased_cost_ms=0) for worker in workers]
    (one,) = decide([lane_view(cost_ms=500, slot=7)], idle).assignments

    assert next(worker.name for worker in workers if worker.epoch == one.epoch) == home


def test_a_slot_waits_for_a_home_that_is_full() -> None:
    """And the plan says so; but not for a home where it would be done over `sticky_wait_s` later, nor for longer than holds last."""
    workers = fleet(4, window=1)
    home = homes(workers)[7]

    def busy(cost_ms: int) -> list[WorkerView]:
        return [structs.replace(worker, leases=1, leased_cost_ms=cost_ms) if worker.name == home else worker for worker in workers]

    waits = decide([lane_view(cost_ms=500, slot=7)], busy(1_500))
    assert waits.assignments == ()
    (hold,) = waits.holds
    assert (hold.reason, hold.jobs) == ("sticky", 1)
    assert len(decide([lane_view(cost_ms=500, slot=7)], busy(2_500)).assignments) == 1
    assert len(decide([lane_view(cost_ms=500, slot=7)], busy(1_500), now_ms=30_001).assignments) == 1


def test_required_stickiness_never_leaves_home() -> None:
    """Not for any wait; when the home is gone, the slot has another."""
    workers = fleet(4, window=1)
    home = homes(workers)[7]
    busy = [structs.replace(worker, leases=1, leased_cost_ms=3_600_000) if worker.name == home else worker for worker in workers]
    required = replace(STICKY, required=True)

    assert decide([lane_view(slot=7)], busy, sticky=required, now_ms=10**9).assignments == ()
    gone = [structs.replace(one, ended="silent") if one.name == home else one for one in busy]
    assert len(decide([lane_view(slot=7)], gone, sticky=required).assignments) == 1


def test_stickiness_goes_with_every_strategy() -> None:
    """With room at home each of them sends the slot there; and waits a little for a home that is full."""
    workers = fleet(4, window=2)
    home = homes(workers)[7]
    for name in STRATEGIES:
        (one,) = decide([lane_view(slot=7, cost_ms=100)], workers, strategy=name).assignments
        assert next(worker.name for worker in workers if worker.epoch == one.epoch) == home
        full = [structs.replace(worker, leases=2, leased_cost_ms=200) if worker.name == home else worker for worker in workers]
        assert [hold.reason for hold in decide([lane_view(slot=7, cost_ms=100)], full, strategy=name).holds] == ["sticky"]
        assert len(decide([lane_view(slot=7, cost_ms=100)], full, strategy=name, now_ms=30_001).assignments) == 1
