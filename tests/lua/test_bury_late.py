"""bury_late: what nobody began in time leaves its lane for dead letters, and nothing else does."""

from __future__ import annotations

import json

import pytest

from dispatcher.core.admission.rules import Admitted
from dispatcher.errors import NotLeader
from dispatcher.store.leader.admit_batch import AdmitBatch
from tests.lua.cell import DISPATCH, LANE, Cell, nothing_written
from tests.messages import message

FUTURE_MS = 9_999_999_999_999
OTHER = LANE.replace("default", "other")


def jobs_until(cell: Cell, *deadlines_ms: int, lane: str = LANE) -> list[str]:
    """Jobs that wait with these deadlines, next first; their numbers."""
    before = len(cell.waiting(lane))
    for at in range(0, len(deadlines_ms), 500):
        part = deadlines_ms[at : at + 500]
        raws = [message() for _ in part]
        cell.push(*raws)
        batch = AdmitBatch(DISPATCH, raws, [Admitted(lane, 1000, deadline_ms=deadline_ms) for deadline_ms in part])
        assert cell.store.apply([batch], tuple, promote=0).admitted == [len(part)]
    return [entry.job for entry in cell.waiting(lane)[before:]]


def numbers(cell: Cell, lane: str = LANE) -> list[str]:
    return [entry.job for entry in cell.waiting(lane)]


def buried(cell: Cell) -> set[str]:
    return set(cell.text.zrange(cell.keys.dead_letters, 0, -1))


def test_what_is_late_is_a_dead_letter_wherever_it_stands(cell: Cell) -> None:
    """Head, middle and end of a lane; the others stay in their order, and no job is in two places."""
    late, fine, later, never, last = jobs = jobs_until(cell, 1, FUTURE_MS, 2, 0, 3)

    assert cell.store.bury_late([(LANE, 0)], limit=500) == [(5, 3)]

    assert numbers(cell) == [fine, never]
    assert buried(cell) == {late, later, last}
    assert cell.whereabouts() == sorted(jobs)
    assert set(cell.messages()) == set(jobs)


def test_its_reason_is_told_and_a_failure_is_owed(cell: Cell) -> None:
    """In the same script; the entry says what it was, so that it can be sent back."""
    (job,) = jobs_until(cell, 1)
    (entry,) = cell.waiting()
    cell.store.bury_late([(LANE, 0)], limit=500)

    reason = json.loads(cell.text.hget(cell.keys.dead_reasons, job))
    assert reason["reason"] == "deadline_passed"
    assert reason["entry"].startswith(entry.job)
    assert reason["entry"].endswith(LANE)
    assert cell.text.smembers(cell.keys.unsettled) == {job}
    assert cell.text.smembers(cell.keys.lanes) == set()
    assert not cell.text.exists(cell.keys.lane(LANE))


def test_not_the_leader(cell: Cell) -> None:
    """REFUSED."""
    jobs_until(cell, 1)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().bury_late([(LANE, 0)], limit=500)


def test_nobody_is_late(cell: Cell) -> None:
    """Nothing changes; a lane that is gone is an empty one."""
    jobs_until(cell, FUTURE_MS, 0)

    with nothing_written(cell):
        assert cell.store.bury_late([(LANE, 0), (OTHER, 0)], limit=500) == [(2, 0), (0, 0)]
        assert cell.store.bury_late([], limit=500) == []


def test_what_is_passed_over_stays(cell: Cell) -> None:
    """A search goes on where it ended; what it passes over is nearer to the head."""
    first, second, third = jobs_until(cell, 1, 2, 3)

    assert cell.store.bury_late([(LANE, 1)], limit=1) == [(1, 1)]
    assert numbers(cell) == [first, third]
    assert buried(cell) == {second}
    assert cell.store.bury_late([(LANE, 2)], limit=500) == [(0, 0)]


def test_a_limit_is_for_all_lanes_together(cell: Cell) -> None:
    """The first lanes use it up; the head of a lane comes first."""
    here = jobs_until(cell, 1, 2, 3)
    there = jobs_until(cell, 1, 2, lane=OTHER)

    assert cell.store.bury_late([(OTHER, 0), (LANE, 0)], limit=3) == [(2, 2), (1, 1)]
    assert buried(cell) == {*there, here[0]}
    assert cell.store.bury_late([(LANE, 0), (OTHER, 0)], limit=2) == [(2, 2), (0, 0)]


def test_9000_late_jobs_behind_9000_that_are_not(cell: Cell) -> None:
    """500 a call, wherever they stand."""
    fine = jobs_until(cell, *[FUTURE_MS] * 9_000)
    jobs_until(cell, *[1] * 9_000)

    assert [cell.store.bury_late([(LANE, 9_000)], limit=500) for _ in range(18)] == [[(500, 500)]] * 18
    assert numbers(cell) == fine
    assert len(buried(cell)) == 9_000
