"""Who is found faulty, for how long, and who is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dispatcher.core.facts.evidence import PROBE_TASK, Running
from dispatcher.core.health.ejection import WARMTH_MIN, Ejected, Health, HealthRule, Panic, Returned
from dispatcher.core.health.probing import Probing
from tests.unit.facts.snapshots import worker_view
from tests.unit.health.health_fleet import Fleet, Member


def ticks_until_ejected(fleet: Fleet, limit: int = 20) -> int:
    for tick in range(1, limit + 1):
        if any(isinstance(change, Ejected) for change in fleet.tick()):
            return tick
    raise AssertionError(f"nobody was ejected within {limit} s")


# -- found


def test_one_that_fails_everything_is_found_within_seconds() -> None:
    """It alone, with what was seen of it and of the others as its reason."""
    fleet = Fleet(4)
    fleet.tick(20)
    fleet[2].fails = 1.0

    assert ticks_until_ejected(fleet) <= 5
    assert fleet.who() == ["e2"]
    assert "jobs failed, of others' 0 of" in fleet.ejected("e2")


def test_one_in_a_fleet_of_three_can_be_ejected() -> None:
    """A tenth of three is none, but one worker always may be; of two as well."""
    for size in (2, 3):
        fleet = Fleet(size)
        fleet.tick(5)
        fleet[0].fails = 1.0
        ticks_until_ejected(fleet)
        assert fleet.who() == ["e0"]
        assert not fleet.health.panic


def test_the_only_worker_is_never_ejected() -> None:
    """There is nothing to compare it with, and nobody to take over."""
    fleet = Fleet(1)
    fleet.tick(20)
    fleet[0].fails, fleet[0].slower = 1.0, 10.0

    assert fleet.tick(60) == []


def test_one_that_fails_a_part_is_found_too() -> None:
    """Half of its jobs, never many in a row."""
    fleet = Fleet(4)
    fleet.tick(20)
    fleet[1].fails = 0.5

    assert ticks_until_ejected(fleet) <= 12
    assert fleet.who() == ["e1"]


def test_one_that_is_ten_times_slower_than_itself_is_found() -> None:
    """By its jobs that end."""
    fleet = Fleet(4)
    fleet.tick(30)
    fleet[3].slower = 10.0

    assert ticks_until_ejected(fleet) <= 10
    assert "times slower than it was" in fleet.ejected("e3")


def test_one_whose_jobs_do_not_end_is_found() -> None:
    """By its jobs that run, long before they end."""
    fleet = Fleet(4)
    fleet.tick(30)
    fleet[0].jobs = 0
    for second in range(1, 5):
        fleet[0].running = [Running("t.one", "default", second * 1_000, 200)] * 4
        fleet.tick()

    assert fleet.who() == ["e0"]


def test_one_whose_loop_hangs_is_found() -> None:
    """And does not return while it hangs, though its time is over."""
    fleet = Fleet(4)
    fleet.tick(3)
    fleet[0].view = structs.replace(fleet[0].view, loop_lag_ms=4_000)

    assert ticks_until_ejected(fleet) == 1
    fleet.tick(40)
    assert fleet.who() == ["e0"]
    fleet[0].view = structs.replace(fleet[0].view, loop_lag_ms=0)
    fleet.tick(1)
    assert fleet.who() == []


def test_one_that_leaves_is_not_ill() -> None:
    """Its event loop has ended while its last jobs run; the next life under its name begins as a healthy one."""
    fleet = Fleet(4)
    fleet.tick(3)
    fleet[0].view = structs.replace(fleet[0].view, loop_lag_ms=4_000, draining="exit")
    fleet.tick(40)
    assert fleet.who() == []


def test_one_that_fails_its_probes_is_found() -> None:
    """Idle workers do nothing that could be compared; a probe is a job."""
    fleet = Fleet(3, probing=Probing(2_000, 2_000))
    for member in fleet.members.values():
        member.view, member.jobs = structs.replace(member.view, tasks=frozenset({PROBE_TASK})), 0
    for _ in range(20):
        for worker in fleet.health.probing.due(fleet.views(), fleet.now_ms, 1_000):
            fleet.health.probing.sent(worker.epoch, fleet.now_ms)
            ended, failed = fleet.probes.get(worker.epoch, (0, 0))
            fleet.probes[worker.epoch] = (ended + 1, failed + 1 if worker.epoch == "e1" else 0)
        fleet.tick()

    assert fleet.who() == ["e1"]
    assert "probes failed" in fleet.ejected("e1")


# -- not found


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_what_everybody_fails_ejects_nobody(share: float) -> None:
    """Bad input is the producer's fault."""
    fleet = Fleet(5)
    fleet.tick(30)
    for member in fleet.members.values():
        member.fails = share

    assert fleet.tick(60) == []
    assert all(view.warmth == 1.0 for view in fleet.views())


def test_what_slows_everybody_down_ejects_nobody() -> None:
    """Longer prompts, a slow database."""
    fleet = Fleet(5)
    fleet.tick(30)
    for member in fleet.members.values():
        member.slower = 10.0

    assert fleet.tick(60) == []


def test_an_unlike_worker_is_no_slow_one() -> None:
    """Eight times slower than the others from its first job: its own past is as slow."""
    fleet = Fleet(4)
    fleet[0].slower = 8.0

    assert fleet.tick(120) == []


def test_who_fails_what_nobody_else_gets_is_given_less_of_it() -> None:
    """So that others get it, and there is something to compare with: it is suspected, not ejected."""
    fleet = Fleet(3)
    fleet[1].jobs = fleet[2].jobs = 0
    fleet[0].fails = 1.0
    fleet.tick(10)

    assert fleet.who() == []
    assert fleet.health.standing("e0", fleet.now_ms)[1] == WARMTH_MIN
    fleet[1].jobs, fleet[1].fails = 5, 1.0
    fleet.tick(5)
    assert fleet.who() == []
    fleet[1].fails = 0.0
    fleet.tick(10)
    assert fleet.who() == ["e0"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.1]), st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([0.5, 2.0, 20.0]))
def test_nobody_is_ejected_by_chance(seed: int, fails: float, scatter: float, jobs: float) -> None:
    """Two minutes of a healthy fleet, whatever share of its jobs fails, however they vary, and however many there are."""
    fleet = Fleet(6, seed=seed)
    for member in fleet.members.values():
        member.fails, member.scatter, member.jobs = fails, scatter, jobs

    assert fleet.tick(120) == []


# -- how long, and how many


def test_an_ejection_lasts_longer_each_time_up_to_a_bound() -> None:
    """30 s, 60 s, … 300 s, as long as the fault is there when it returns."""
    fleet = Fleet(4)
    fleet.tick(5)
    fleet[0].fails = 1.0
    fleet.tick(3_000)
    spans = [change.span_ms for change in fleet.of(Ejected) if isinstance(change, Ejected)]

    assert spans[:10] == [30_000 * n for n in range(1, 11)]
    assert max(spans) == 300_000
    assert fleet.who() in (["e0"], [])


def test_who_was_well_for_long_has_a_clean_record() -> None:
    """The next ejection is as short as the first."""
    fleet = Fleet(4)
    for _ in range(2):
        fleet.tick(5)
        fleet[0].fails = 1.0
        ticks_until_ejected(fleet)
        fleet[0].fails = 0.0
        fleet.tick(30 + 601)
    assert [change.span_ms for change in fleet.of(Ejected) if isinstance(change, Ejected)] == [30_000, 30_000]


def test_who_returns_warms_up() -> None:
    """From a tenth of its speed to all of it within ``slow_start_s``."""
    fleet = Fleet(4)
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    fleet[0].fails = 0.0
    while not fleet.of(Returned):
        fleet.tick()
    warmths = []
    for _ in range(11):
        warmths.append(fleet.views()[0].warmth)
        fleet.tick()

    assert warmths[0] == WARMTH_MIN
    assert warmths == sorted(warmths)
    assert warmths[-1] == 1.0


def test_a_fresh_fleet_is_warm() -> None:
    """All are new, and all are trusted at once; and so they are all less, and equally, where it is asked for."""
    assert {view.warmth for view in Fleet(5).views()} == {1.0}
    fleet = Fleet(5, new_start_ms=10_000)
    fleet.tick()
    fleet.members |= {f"n{i}": Member(worker_view(f"n{i}")) for i in range(3)}
    fleet.tick()
    warmths = {view.epoch: view.warmth for view in fleet.views()}

    assert {warmths[f"e{i}"] for i in range(5)} == {1.0}, "they were there before this leader was"
    assert {warmths[f"n{i}"] for i in range(3)} == {WARMTH_MIN}


def test_an_ejection_ends_with_the_life_but_is_remembered() -> None:
    """The restarted worker gets jobs, few at first; if it is faulty still it is away for longer."""
    fleet = Fleet(4)
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    name = fleet.members.pop("e0").view.name
    fleet.tick()
    fleet.members["new"] = Member(worker_view("new", name=name, concurrency=4))
    fleet.tick()

    assert fleet.who() == []
    assert fleet.views()[-1].warmth < 1.0
    fleet.members["new"].fails = 1.0
    ticks_until_ejected(fleet)
    assert [change.span_ms for change in fleet.of(Ejected) if isinstance(change, Ejected)] == [30_000, 60_000]


def test_an_ejected_worker_must_pass_a_probe_to_return() -> None:
    """Its time is over, and its last probe, sent since it was ejected, was good."""
    fleet = Fleet(4, probing=Probing(5_000, 5_000))
    for member in fleet.members.values():
        member.view = structs.replace(member.view, tasks=frozenset({PROBE_TASK}))
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    good = False

    def probe() -> None:
        for worker in fleet.health.probing.due(fleet.views(), fleet.now_ms, 1_000):
            fleet.health.probing.sent(worker.epoch, fleet.now_ms)
            ended, failed = fleet.probes.get(worker.epoch, (0, 0))
            fleet.probes[worker.epoch] = (ended + 1, 0 if good or worker.epoch != "e0" else failed + 1)

    for _ in range(60):
        probe()
        fleet.tick()
    assert fleet.who() == ["e0"]
    fleet[0].fails, good = 0.0, True
    for _ in range(7):
        probe()
        fleet.tick()
    assert fleet.who() == []


def test_an_ejected_worker_returns_though_a_probe_of_it_was_lost() -> None:
    """A probe that was given back, or died with a connection, never ends: another is sent once it is overdue."""
    fleet = Fleet(4, probing=Probing(5_000, 5_000))
    for member in fleet.members.values():
        member.view = structs.replace(member.view, tasks=frozenset({PROBE_TASK}))
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    fleet[0].fails = 0.0
    probing, lost = fleet.health.probing, 0
    for _ in range(120):
        for worker in probing.due(fleet.views(), fleet.now_ms, 1_000):
            probing.sent(worker.epoch, fleet.now_ms)
            if worker.epoch == "e0" and lost < 2:
                lost += 1
                continue
            ended, _ = fleet.probes.get(worker.epoch, (0, 0))
            fleet.probes[worker.epoch] = (ended + 1, 0)
        fleet.tick()
    assert lost == 2
    assert fleet.who() == []


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_cap_holds(data: st.DataObject) -> None:
    """Whoever hangs, fails, comes and goes: never more than a tenth of the fleet is ejected at once, though always one may be."""
    size = data.draw(st.integers(2, 30))
    fleet = Fleet(size, base_ms=5_000)
    for _ in range(30):
        for member in fleet.members.values():
            if data.draw(st.integers(0, 9)) == 0:
                member.view = structs.replace(member.view, loop_lag_ms=data.draw(st.sampled_from([0, 10_000])))
        fleet.tick()
        assert len(fleet.who()) <= max(1, len(fleet.members) // 10)


def test_with_too_few_healthy_workers_ejections_are_ignored() -> None:
    """Said once, and once when it is over."""
    fleet = Fleet(4)
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    fleet[0].fails = 0.0
    for index in (1, 2):
        fleet[index].view = structs.replace(fleet[index].view, consume_age_ms=10_000)
    fleet.tick(2)
    assert fleet.of(Panic) == [Panic(True, 1, 4)]
    assert fleet.who() == []
    for index in (1, 2):
        fleet[index].view = structs.replace(fleet[index].view, consume_age_ms=0)
    fleet.tick(2)
    assert fleet.of(Panic)[1:] == [Panic(False, 3, 4)]
    assert fleet.who() == ["e0"]


def test_a_successor_goes_on() -> None:
    """Ejections, records and slow starts survive a takeover; the dump is the same while nothing changes."""
    fleet = Fleet(4)
    fleet.tick(5)
    fleet[0].fails = 1.0
    ticks_until_ejected(fleet)
    state = fleet.health.dump()
    fleet.tick()
    assert fleet.health.dump() == state
    fleet.health = Health(HealthRule(), Probing(0, 1))
    fleet.health.load(state)

    assert fleet.who() == ["e0"]
    fleet[0].fails = 0.0
    fleet.tick(32)
    assert fleet.who() == []


def test_switched_off() -> None:
    """``eject_base_s`` of 0 ejects nobody; 0 failures or ratio look for nothing."""
    fleet = Fleet(4, base_ms=0)
    fleet.tick(20)
    fleet[0].fails = 1.0
    assert fleet.tick(30) == []
    fleet = Fleet(4, failures_in_row=0, slow_ratio=0.0)
    fleet.tick(20)
    fleet[0].fails, fleet[1].slower = 1.0, 10.0
    assert fleet.tick(30) == []
