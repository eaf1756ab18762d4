"""How many workers there should be."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.scaling import (
    Member,
    ScalingDecision,
    ScalingLimits,
    ScalingMemory,
    ScalingView,
    Startable,
    Waiting,
    decide,
)

LIMITS = ScalingLimits(target_wait_s=10, stabilization_s=60, workers_min=1, workers_max=8)
KIND = Startable("w", capacity=1.0)


def waiting(cost_s: float, model: str = "default") -> tuple[Waiting, ...]:
    return (Waiting(model, cost_s),) if cost_s else ()


def idle(count: int) -> tuple[Member, ...]:
    return tuple(Member(f"w{number}", 1.0) for number in range(count))


def once(
    work: tuple[Waiting, ...], members: tuple[Member, ...], limits: ScalingLimits = LIMITS, kinds: tuple[Startable, ...] = (KIND,)
) -> ScalingDecision:
    return decide(ScalingView(0, work, members), kinds, limits, ScalingMemory())[0]


def over(
    span_s: int, work: tuple[Waiting, ...], members: tuple[Member, ...], memory: ScalingMemory | None = None, *, start_s: int = 0
) -> tuple[ScalingDecision, ScalingMemory]:
    """The last decision of looks a second apart."""
    memory = memory or ScalingMemory()
    for second in range(start_s, start_s + span_s + 1):
        decision, memory = decide(ScalingView(second * 1000, work, members), (KIND,), LIMITS, memory)
    return decision, memory


def test_a_burst_starts_as_many_as_it_needs_at_once() -> None:
    """60 s of work with 10 s allowed needs six workers: five more than there are, in the first look."""
    assert once(waiting(60), idle(1)).start == ("w",) * 5


def test_running_work_counts() -> None:
    """An empty queue in front of busy workers is not an idle fleet."""
    busy = replace(idle(1)[0], leases=3, leased_cost_s=30.0)
    assert once((), (busy,)).start == ("w", "w")


def test_starting_workers_count_as_capacity() -> None:
    """The look after a burst starts nothing more: what is starting will do that work."""
    starting = tuple(Member(f"s{number}", 1.0, starting=True) for number in range(5))
    assert not once(waiting(60), (*idle(1), *starting)).acts


def test_capacity_is_weight_times_slots() -> None:
    """One large kind replaces several small ones."""
    assert once(waiting(60), (), kinds=(Startable("large", 6.0),)).start == ("large",)


def test_the_maximum_is_hard_and_counts_draining_workers() -> None:
    """Draining workers still use the machine."""
    draining = tuple(Member(f"d{number}", 1.0, draining=True) for number in range(5))
    assert len(once(waiting(1000), (*idle(1), *draining)).start) == 2
    assert not once(waiting(1000), idle(8)).acts


def test_from_zero() -> None:
    """Without any worker, the first job starts one."""
    limits = replace(LIMITS, workers_min=0)
    decision = once(waiting(0.5), (), limits)
    assert decision.start == ("w",)
    assert decision.wait_s == math.inf
    assert not once((), (), limits).acts


def test_the_minimum_is_kept() -> None:
    """Fewer than the minimum are topped up without any work."""
    assert once((), (), replace(LIMITS, workers_min=3)).start == ("w",) * 3


def test_down_only_when_a_whole_window_agrees() -> None:
    """An idle fleet shrinks to the minimum after the stabilization window, and not a look before."""
    decision, memory = over(59, (), idle(4))
    assert not decision.acts
    decision, _ = over(0, (), idle(4), memory, start_s=60)
    assert len(decision.drain) == 3


def test_a_burst_inside_the_window_puts_scaling_down_off() -> None:
    """The busiest moment of the window decides."""
    _, memory = over(50, (), idle(4))
    _, memory = over(0, waiting(35), idle(4), memory, start_s=51)
    decision, memory = over(50, (), idle(4), memory, start_s=52)
    assert not decision.acts
    decision, _ = over(20, (), idle(4), memory, start_s=103)
    assert len(decision.drain) == 3


def test_idle_workers_leave_first_then_those_with_least_work() -> None:
    """Draining never kills a job; it costs least where least is left."""
    members = (
        Member("long", 1.0, leases=1, leased_cost_s=3.0),
        Member("short", 1.0, leases=1, leased_cost_s=1.0),
        Member("idle", 1.0),
    )
    decision, _ = over(60, (), members)
    assert decision.drain == ("idle", "short")


def test_only_our_own_workers_are_drained() -> None:
    """Nobody could start the others again."""
    members = (*idle(2), Member("theirs", 1.0, ours=False))
    decision, _ = over(60, (), members)
    assert set(decision.drain) == {"w0", "w1"}


def test_a_model_that_nobody_serves_starts_a_kind_that_does() -> None:
    """Capacity in general is no capacity for a model."""
    kinds = (KIND, Startable("gpu", 4.0, frozenset({"big"})))
    assert once(waiting(1, "big"), idle(2), kinds=kinds).start == ("gpu",)


def test_work_that_no_kind_could_do_starts_nothing() -> None:
    """It would start workers up to the maximum and still wait."""
    assert not once(waiting(1000, "unheard-of"), idle(1)).acts


def test_the_reason_tells_the_figures() -> None:
    """Every decision can be checked from its own words."""
    assert once(waiting(60), idle(1)).reason == "too much work waits: 60.0 s of work ÷ capacity 1 = 60.0 s, target 10 s"


COSTS = st.floats(0, 500)
MEMBERS = st.lists(
    st.builds(
        Member,
        st.uuids().map(str),
        st.floats(0.1, 8),
        leases=st.integers(0, 3),
        leased_cost_s=st.floats(0, 50),
        starting=st.booleans(),
        draining=st.booleans(),
        ours=st.booleans(),
    ),
    max_size=12,
).map(tuple)


@given(COSTS, MEMBERS, st.integers(0, 4), st.integers(4, 10), st.lists(COSTS, max_size=3))
def test_safety(cost_s: float, members: tuple[Member, ...], fewest: int, most: int, history: list[float]) -> None:
    """SAFETY: the maximum is never passed by starting, the minimum never undercut by draining; never both at once; what is drained is
    ours, alive, and was not draining; what is left can do what the busiest moment of the window needed.
    """
    limits = ScalingLimits(10, 60, fewest, most)
    memory = ScalingMemory(tuple((at * 30_000, needed) for at, needed in enumerate(history)))
    decision, _ = decide(ScalingView(120_000, waiting(cost_s), members), (KIND,), limits, memory)
    staying = {member.name: member for member in members if not member.draining}
    assert not (decision.start and decision.drain)
    assert len(members) + len(decision.start) <= max(most, len(members))
    assert all(staying[name].ours and not staying[name].starting for name in decision.drain)
    if decision.drain and len(staying) <= most:
        assert len(staying) - len(decision.drain) >= fewest
        left = sum(one.capacity for name, one in staying.items() if name not in decision.drain)
        work_s = cost_s + sum(one.leased_cost_s for one in staying.values())
        assert left * 10 >= work_s


@given(COSTS, st.integers(1, 8))
def test_liveness(cost_s: float, workers: int) -> None:
    """LIVENESS: however it starts, looking again and again settles within the limits, with enough capacity or the maximum."""
    members = idle(workers)
    memory = ScalingMemory()
    for second in range(200):
        decision, memory = decide(ScalingView(second * 1000, waiting(cost_s), members), (KIND,), LIMITS, memory)
        members = tuple(member for member in members if member.name not in decision.drain)
        members += tuple(Member(f"n{second}.{number}", 1.0) for number in range(len(decision.start)))
    assert LIMITS.workers_min <= len(members) <= LIMITS.workers_max
    assert len(members) * LIMITS.target_wait_s >= cost_s or len(members) == LIMITS.workers_max
    assert not decision.acts


def test_any_amount_of_work_starts_no_more_than_there_is_room_for() -> None:
    """A producer that takes costs for milliseconds asks for more workers than would fit into memory, by name."""
    decision = once(waiting(1e15), idle(1))
    assert decision.start == ("w",) * 7
    assert ", 99999999999999 wanted" in decision.reason
