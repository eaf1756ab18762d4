"""What a battle says of a ledger: who lost a job, and whose second run is excused."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.battle.faults import Done, Kind, plan_faults
from benchmarks.battle.jobs import Expected, Unit, plan_jobs
from benchmarks.battle.ledger import Run
from benchmarks.battle.verdict import OUTAGE_MS, judge, percentile

MAIN, CHILD, OTHER = 10, 11, 20


def run(started_ms: int, ended_ms: int | None, *, job: str = "a:0", pid: int = CHILD, worker_pid: int = MAIN) -> Run:
    return Run(job, "w1@battle", pid, worker_pid, started_ms, ended_ms)


def of(*runs: Run, faults: tuple[Done, ...] = (), **more: object) -> str:
    """The one word for job ``a``."""
    ended = {one.job for one in runs if one.ended_ms is not None}
    verdict = judge(Expected({"a:0": ()}, **more), runs, ended, faults)  # type: ignore[arg-type]
    for word in ("lost", "outside", "inside", "unknown"):
        if getattr(verdict, word):
            return word
    return "fine"


AGAIN = run(9000, 9100, pid=OTHER, worker_pid=OTHER)
KILL = Done(Kind.KILL_WORKER, 2000, 2000, (MAIN, CHILD))


def test_a_job_that_ran_once_is_fine_and_one_that_never_ended_is_lost() -> None:
    """However often it began."""
    assert of(run(1, 2)) == "fine"
    assert of(run(1, None)) == of() == "lost"


def test_a_send_that_failed_may_have_arrived_or_not_but_not_twice() -> None:
    """It is neither lost nor unknown."""
    assert of(unsure={"a:0"}) == of(run(1, 2), unsure={"a:0"}) == "fine"
    assert of(run(1, 2), AGAIN, unsure={"a:0"}) == "outside"


@pytest.mark.parametrize("kind", [Kind.KILL_WORKER, Kind.KILL_CHILD, Kind.KILL_AUTOSCALER, Kind.FREEZE_WORKER, Kind.FREEZE_MAIN])
def test_a_second_run_is_excused_where_the_first_one_was_cut_short(kind: Kind) -> None:
    """By a kill, or a freeze longer than a lease lives, of the process that ran it or of its worker."""
    assert of(run(1500, None), AGAIN, faults=(Done(kind, 2000, 2000, (CHILD,)),)) == "inside"
    assert of(run(1500, None), AGAIN, faults=(Done(kind, 2000, 2000, (MAIN,)),)) == "inside"
    assert of(run(1500, None), AGAIN, faults=(Done(kind, 2000, 2000, (OTHER,)),)) == "outside"


@pytest.mark.parametrize("kind", [Kind.TERM_WORKER, Kind.BLINK_WORKER, Kind.CUT, Kind.RESTART_REDIS, Kind.KILL_DISPATCHER])
def test_what_ends_no_worker_excuses_nothing(kind: Kind) -> None:
    """An orderly end, a short freeze, an outage of Redis, a new leader: each job still runs once."""
    assert of(run(1500, 2500), AGAIN, faults=(Done(kind, 2000, 3000, (MAIN, CHILD)),)) == "outside"


def test_a_job_that_had_ended_and_been_acked_is_not_excused() -> None:
    """A moment before the kill it may not have been; nor while Redis was away."""
    assert of(run(1000, 1990), AGAIN, faults=(KILL,)) == "inside"
    late = Done(Kind.KILL_WORKER, 20_000, 20_000, (MAIN,))
    assert of(run(1000, 1990), AGAIN, faults=(late,)) == "outside"
    outage = Done(Kind.FREEZE_REDIS, 1500, 20_000 - OUTAGE_MS)
    assert of(run(1000, 1990), AGAIN, faults=(outage, late)) == "inside"


def test_every_run_but_the_last_must_be_excused() -> None:
    """A zombie that begins a job after the new owner has makes the new owner's run the one to explain."""
    assert of(run(1500, None), AGAIN, run(9050, 9100), faults=(KILL,)) == "outside"
    assert of(AGAIN, run(9500, None), faults=(KILL,)) == "outside"


def test_what_a_repeated_run_published_twice_is_excused_by_it() -> None:
    """The retry of a job that ran again, the body of a chord whose header did."""
    expected = Expected({"a:0": (), "a:1": ("a:0",)})
    runs = [run(1500, 1999), AGAIN, run(2500, 2600, job="a:1"), run(9500, 9600, job="a:1")]
    verdict = judge(expected, runs, {"a:0", "a:1"}, [KILL])
    assert (verdict.inside, verdict.outside) == (["a:0", "a:1"], [])
    verdict = judge(expected, [runs[0], *runs[2:]], {"a:0", "a:1"}, [KILL])
    assert verdict.outside == ["a:1"]


def test_what_redis_still_has_is_stuck_and_what_nobody_sent_is_unknown() -> None:
    """Lost is only what is nowhere."""
    verdict = judge(Expected({"a:0": (), "b:0": ()}), [run(1, 2, job="c:0")], {"c:0"}, [], kept={"a"})
    assert (verdict.stuck, verdict.lost, verdict.unknown, verdict.ok) == (["a:0"], ["b:0"], ["c:0"], False)


def test_how_long_a_job_that_was_cut_short_took_to_start_again() -> None:
    """From the kill, not from its first start; a job that had ended was not cut short."""
    verdict = judge(Expected({"a:0": ()}), [run(1500, None), AGAIN], {"a:0"}, [KILL])
    assert verdict.restarts_ms == [7000]
    assert judge(Expected({"a:0": ()}), [run(1500, 1990), AGAIN], {"a:0"}, [KILL]).restarts_ms == []


def test_the_same_seed_plans_the_same_battle() -> None:
    """Jobs and faults; the kills are as many as were asked for, and the messages about as many."""
    jobs, again = (plan_jobs(1000, Random(3)) for _ in range(2))
    faults, twice = (plan_faults(20, 100, Random(3), lease_ttl_s=5) for _ in range(2))
    assert (jobs, faults) == (again, twice)
    assert sum(len(unit.ids) for unit in jobs) == 1000
    assert sum(fault.kind.is_kill for fault in faults) == 20
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)


def test_what_follows_from_a_message() -> None:
    """A retry follows the try before, the body of a chord its headers."""
    assert Unit("battle.again", ("a",), 2).jobs() == {"a:0": (), "a:1": ("a:0",), "a:2": ("a:1",)}
    assert Unit("battle.total", ("a", "b", "c")).jobs() == {"a:0": (), "b:0": (), "c:0": ("a:0", "b:0")}
    assert Unit("battle.noop", ("a",)).jobs() == {"a:0": ()}


def test_percentiles() -> None:
    """Of one value, of none, and of a hundred."""
    assert (percentile([], 0.99), percentile([5], 0.99), percentile(range(100), 0.99), percentile(range(100), 0.5)) == (0, 5, 99, 50)
