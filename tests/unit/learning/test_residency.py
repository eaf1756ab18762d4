"""What it costs a job that a worker must load its model first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.facts.evidence import Memory, WorkerReport, WorkerTotals
from dispatcher.core.learning.residency import (
    ARRIVAL_EXTRA_MS,
    ARRIVAL_LOADS,
    Arrivals,
    LoadTimes,
    Residency,
    load_penalty_ms,
    time_to_load_ms,
)
from tests.unit.facts.snapshots import worker_view

LOAD_MS = {"chat": 12_000, "chat@2": 3_000}
NOTHING: frozenset[str] = frozenset()


def test_only_a_model_that_is_not_in_memory_costs_a_load() -> None:
    """Nothing where the worker holds the model, does not say what it holds, or nobody knows how long the model takes."""
    assert load_penalty_ms("chat", worker_view(resident=frozenset({"chat"})), 12_000) == 0
    assert load_penalty_ms("chat", worker_view(resident=None), 12_000) == 0
    assert load_penalty_ms("chat", worker_view(resident=NOTHING), 0) == 0
    assert load_penalty_ms("chat", worker_view(resident=frozenset({"other"})), 12_000) == 12_000


def test_a_load_costs_twice_where_another_model_must_go_for_it() -> None:
    """That one will be loaded again; so an empty place is taken before a full memory is disturbed."""
    assert load_penalty_ms("chat", worker_view(resident=frozenset({"a"}), models_max=2), 12_000) == 12_000
    assert load_penalty_ms("chat", worker_view(resident=frozenset({"a", "b"}), models_max=2), 12_000) == 24_000
    assert load_penalty_ms("a", worker_view(resident=frozenset({"a", "b"}), models_max=2), 12_000) == 0


def test_a_version_loads_as_long_as_its_name_until_it_was_measured() -> None:
    """``chat@1`` was never loaded, ``chat@2`` was."""
    assert time_to_load_ms("chat@1", LOAD_MS) == 12_000
    assert time_to_load_ms("chat@2", LOAD_MS) == 3_000
    assert time_to_load_ms("other", LOAD_MS) == 0


def test_what_was_measured_counts_more_than_what_was_set() -> None:
    """The first load replaces the prior; later ones move it, whether they are told one by one or together."""
    times = LoadTimes({"chat": 60_000, "other": 5_000})
    times.observe("chat", 1, 10_000)
    assert times.known_ms() == {"chat": 10_000, "other": 5_000}
    times.observe("chat", 1, 20_000)
    assert times.known_ms()["chat"] == 13_000
    together = LoadTimes(measured_ms={"chat": 10_000.0})
    together.observe("chat", 2, 40_000)
    times = LoadTimes(measured_ms={"chat": 10_000.0})
    for _ in range(2):
        times.observe("chat", 1, 20_000)
    assert together.known_ms() == times.known_ms()
    times.observe("chat", 0, 0)
    assert together.known_ms() == times.known_ms()


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1e6)), max_size=20))
def test_the_measured_time_stays_between_the_shortest_and_the_longest_load(loads: list[tuple[int, float]]) -> None:
    """Whatever the workers tell, in whatever order."""
    times = LoadTimes()
    for count, mean_ms in loads:
        times.observe("chat", count, count * mean_ms)
    seen = [mean_ms for count, mean_ms in loads if count]
    if seen:
        assert min(seen) - 1 <= times.known_ms()["chat"] <= max(seen) + 1
    else:
        assert times.known_ms() == {}


def test_a_model_on_its_way_counts_as_there() -> None:
    """From the assignment until the worker says so, and the time that is left of the load is told."""
    arrivals = Arrivals()
    arrivals.assigned("w1", "chat", NOTHING, 12_000, now_ms=1_000)
    arrivals.assigned("w1", "chat", NOTHING, 12_000, now_ms=5_000)  # a second job does not begin the load anew
    assert arrivals.soon("w1", NOTHING, now_ms=6_000) == ({"chat"}, 7_000)
    assert arrivals.soon("w1", NOTHING, now_ms=20_000) == ({"chat"}, 0)
    assert arrivals.soon("w2", NOTHING, now_ms=6_000) == (NOTHING, 0)
    assert arrivals.soon("w1", frozenset({"chat"}), now_ms=20_000) == ({"chat"}, 0)
    assert arrivals.soon("w1", NOTHING, now_ms=21_000) == (NOTHING, 0), "it was there, and then evicted"


def test_a_model_that_does_not_come_is_not_believed_in_for_ever() -> None:
    """The job may have been recalled, or the load may have failed."""
    arrivals = Arrivals()
    arrivals.assigned("w1", "chat", NOTHING, 12_000, now_ms=0)
    end_ms = ARRIVAL_LOADS * 12_000 + ARRIVAL_EXTRA_MS
    assert arrivals.soon("w1", NOTHING, now_ms=end_ms - 1)[0] == {"chat"}
    assert arrivals.soon("w1", NOTHING, now_ms=end_ms) == (NOTHING, 0)


def test_where_loading_costs_nothing_nothing_is_on_its_way() -> None:
    """A worker that does not say, a model it holds, a model without a load time: there is nothing to wait for."""
    arrivals = Arrivals()
    arrivals.assigned("w1", "chat", None, 12_000, now_ms=0)
    arrivals.assigned("w1", "other", NOTHING, 0, now_ms=0)
    arrivals.assigned("w1", "held", frozenset({"held"}), 12_000, now_ms=0)
    assert arrivals.soon("w1", NOTHING, now_ms=1) == (NOTHING, 0)
    arrivals.assigned("w1", "chat", NOTHING, 12_000, now_ms=0)
    arrivals.forget({"w2"}, now_ms=1)
    assert arrivals.soon("w1", NOTHING, now_ms=1) == ({"chat"}, 11_999), "it may be new"
    arrivals.forget({"w2"}, now_ms=60_000)
    assert arrivals.soon("w1", NOTHING, now_ms=1) == (NOTHING, 0)


def told(epoch: str, *resident: str, **loads: tuple[int, int]) -> WorkerReport:
    return WorkerReport(epoch, f"{epoch}@h", 1, 1.0, WorkerTotals(memory=Memory(list(resident), loads)))


def test_the_leader_learns_what_workers_hold_and_how_long_loads_take() -> None:
    """From what they tell, each load once, however often it is told; a worker that says nothing stays unknown."""
    known = Residency({"chat": 60_000})
    assert known.of("w1", 0) == (None, 0)
    for _ in range(3):
        known.observe((), [told("w1", "chat", chat=(1, 10_000)), WorkerReport("w2", "w2@h", 1, 1.0, WorkerTotals())], 1_000)
        assert known.load_ms == {"chat": 10_000}
    assert known.of("w1", 1_000) == ({"chat"}, 0)
    assert known.of("w2", 1_000) == (None, 0)
    known.observe((), [told("w1", "chat", chat=(2, 30_000))], 2_000)
    assert known.load_ms == {"chat": 13_000}


def test_a_worker_that_is_new_holds_what_it_said_when_its_life_began() -> None:
    """It is not taken for one that has nothing to load, nor loaded with the same model twice; its first beat then counts."""
    known = Residency({"chat": 12_000})
    assert known.of("w1", 0, ()) == (NOTHING, 0)
    assert known.of("w2", 0, ("chat",)) == ({"chat"}, 0)
    assert known.of("w3", 0, None) == (None, 0)
    known.assigned([Assign("dispatch/t/chat/p0/c10", "w1", 1, 3, 0.0)], 0)
    assert known.of("w1", 4_000, ()) == ({"chat"}, 8_000)
    known.observe((), [told("w2")], 1_000)
    assert known.of("w2", 1_000, ("chat",)) == (NOTHING, 0)
    assert known.of("w1", 1_000, ()) == ({"chat"}, 11_000), "its first beat has not been heard"


def test_a_successor_goes_on_from_what_was_learned() -> None:
    """Loads that its predecessor has seen are not learned from twice; those in between are."""
    first, second = Residency({}), Residency({})
    first.observe((), [told("w1", "chat", chat=(1, 10_000))], 1_000)
    second.load(first.dump())
    assert second.load_ms == first.load_ms
    second.observe((), [told("w1", "chat", chat=(2, 30_000))], 2_000)
    assert second.load_ms == {"chat": 13_000}
    assert second.dump() == second.dump()


def test_a_model_that_was_sent_for_counts_until_the_worker_speaks() -> None:
    """Its load is owed before the next job; the worker's word ends it."""
    known = Residency({"chat": 12_000})
    known.observe((), [told("w1")], 0)
    known.assigned([Assign("dispatch/t/chat/p0/c10", "w1", 1, 3, 0.0)], 1_000)
    assert known.of("w1", 4_000) == ({"chat"}, 9_000)
    known.observe((), [told("w1", "chat")], 5_000)
    assert known.of("w1", 5_000) == ({"chat"}, 0)
    known.observe((), [told("w1")], 6_000)
    assert known.of("w1", 6_000) == (NOTHING, 0)
