"""What a battle makes of jobs that no worker can do: the plan, and the verdict; no process is started."""

from __future__ import annotations

from collections import Counter
from random import Random

from benchmarks.battle.downs import downs_of
from benchmarks.battle.faults import Done, Kind
from benchmarks.battle.field import Restart
from benchmarks.battle.fight import Life
from benchmarks.battle.jobs import plan_jobs, plan_odd
from benchmarks.battle.odd import REASONS, SHARES, Ends, wrong_ends

SENT = {kind: kind for kind in REASONS}
"""A job of each kind, its id the kind."""


def ends(**others: str) -> Ends:
    """As it must be, but for what the senders are told in ``others``."""
    errors = {kind: f"{'JobDead' if kind == 'undecodable' else 'PoisonJob'}: {reason}" for kind, reason in REASONS.items()} | others
    replies = {"told": errors.pop("told")}
    return Ends({kind: (reason, "battle.odd") for kind, reason in REASONS.items()}, errors, replies)


def test_one_job_in_a_hundred_is_odd_and_the_others_stay() -> None:
    """All kinds; retries, naps and chords are left as they were planned."""
    plain = plan_jobs(20_000, Random(3))
    units, lines = plan_odd(plain, 0.01, Random(3))
    kinds = Counter(unit.odd for unit in units if unit.odd)
    assert kinds.total() + lines == 200
    assert {*kinds, "line"} == {*SHARES}
    assert [unit for unit in units if not unit.odd] == [unit for unit, odd in zip(plain, units, strict=True) if not odd.odd]
    assert [unit.ids for unit in units] == [unit.ids for unit in plain]
    assert not any(unit.jobs() for unit in units if unit.odd)


def test_an_end_with_its_reason_is_right() -> None:
    """Buried for it, and its sender told, each where the result belongs."""
    assert wrong_ends(SENT, ends()) == []


def test_any_other_end_is_not() -> None:
    """No dead letter, one of another reason, and a sender who waits for ever."""
    nothing = wrong_ends(SENT, Ends({}, {}, {}))
    assert len(nothing) == 2 * len(SENT)
    assert "should be told PoisonJob: delivery_failed and is told nothing" in wrong_ends(SENT, ends(told="nothing"))[0]
    assert "is told SUCCESS" in wrong_ends(SENT, ends(deadly="SUCCESS"))[0]
    wrong = ends()
    other = Ends(wrong.letters | {"deadly": ("time_limit", "battle.odd")}, wrong.stored | {"deadly": "JobDead: time_limit"}, wrong.replies)
    assert wrong_ends(SENT, other) == ["deadly job deadly should be a dead letter of process_died and is time_limit"]


def test_a_worker_that_is_killed_at_the_last_try_is_a_reason_too() -> None:
    """If the sender was told the same."""
    right = ends(deadly="PoisonJob: worker_died")
    letters = right.letters | {"deadly": ("worker_died", "battle.odd")}
    assert wrong_ends(SENT, Ends(letters, right.stored, right.replies)) == []
    assert len(wrong_ends(SENT, Ends(letters, ends().stored, right.replies))) == 1


def life(pid: int, registered_ms: int) -> Life:
    return Life(f"{pid:012x}", "w@battle", pid, registered_ms)


def test_a_worker_is_down_for_as_long_as_its_restart() -> None:
    """From the end of the one to the registration of the next; a process that is no worker is passed over."""
    restarts = [Restart("w", 1000, 1100, 2, before=1), Restart("dispatcher1", 1000, 1100, 8, before=7)]
    (down,) = downs_of(restarts, [life(1, 0), life(2, 3100)], [])
    assert (down.down_ms, down.restart_ms, down.is_wrong) == (2100, 2000, False)


def test_one_that_begins_again_and_again_is_down_for_longer() -> None:
    """Its first successor ends by itself before it has registered."""
    restarts = [Restart("w", 1000, 1100, 2, before=1), Restart("w", 3000, 3100, 3, before=2)]
    (down,) = downs_of(restarts, [life(1, 0), life(3, 5100)], [])
    assert down.is_wrong
    hit = Done(Kind.KILL_WORKER, 2900, 3000, (2,))
    (down,) = downs_of(restarts, [life(1, 0), life(3, 5100)], [hit])
    assert (down.down_ms, down.is_wrong) == (2100, False)
