"""reroute: jobs that wait for a withdrawn version wait for another."""

from __future__ import annotations

import pytest

from dispatcher.errors import NotLeader
from tests.lua.cell import LANE, Cell, nothing_written

ELSEWHERE = LANE.replace("default", "chat@1")
FARTHER = LANE.replace("default", "chat@3")


def newest_first(cell: Cell, count: int = 100) -> list[bytes]:
    return [frame for frame, _ in cell.store.rollouts().waiting(LANE, 0, count)]


def test_jobs_move_as_they_are_and_in_order(cell: Cell) -> None:
    """To the heads of the other lanes, before what came later; what is left of the lane stays."""
    jobs = cell.jobs(6)
    frames = newest_first(cell)
    store = cell.store.rollouts()

    assert store.reroute(LANE, [(frames[0], ELSEWHERE), (frames[2], FARTHER), (frames[3], ELSEWHERE)]) == 3
    assert store.reroute(LANE, [(frames[4], ELSEWHERE)]) == 1

    assert [entry.job for entry in cell.waiting(ELSEWHERE)] == [jobs[1], jobs[2], jobs[5]]
    assert [entry.job for entry in cell.waiting(FARTHER)] == [jobs[3]]
    assert [entry.job for entry in cell.waiting()] == [jobs[0], jobs[4]]
    assert cell.text.smembers(cell.keys.lanes) == {LANE, ELSEWHERE, FARTHER}
    assert cell.whereabouts() == sorted(jobs)


def test_a_lane_that_is_empty_then_is_none(cell: Cell) -> None:
    """Its name goes with its last job."""
    cell.jobs(2)
    assert cell.store.rollouts().reroute(LANE, [(frame, ELSEWHERE) for frame in newest_first(cell)]) == 2
    assert cell.text.smembers(cell.keys.lanes) == {ELSEWHERE}


def test_a_job_that_was_assigned_meanwhile_goes_on(cell: Cell) -> None:
    """REFUSED for that job alone."""
    worker = cell.worker()
    jobs = cell.jobs(2)
    frames = newest_first(cell)
    cell.give(worker, 1)

    assert cell.store.rollouts().reroute(LANE, [(frame, ELSEWHERE) for frame in frames]) == 1
    assert [entry.job for entry in cell.waiting(ELSEWHERE)] == [jobs[1]]
    assert cell.whereabouts() == sorted(jobs)
    with nothing_written(cell):
        assert cell.store.rollouts().reroute(LANE, [(frame, ELSEWHERE) for frame in frames]) == 0


def test_who_does_not_lead(cell: Cell) -> None:
    """REFUSED: nothing written."""
    cell.jobs(1)
    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().rollouts().reroute(LANE, [(newest_first(cell)[0], ELSEWHERE)])


def test_a_lane_of_the_wrong_type(cell: Cell) -> None:
    """It is moved aside."""
    cell.jobs(2)
    frames = newest_first(cell)
    cell.client.set(cell.keys.lane(FARTHER), "a string")

    assert cell.store.rollouts().reroute(LANE, [(frames[0], ELSEWHERE), (frames[1], FARTHER)]) == 2
    assert len(cell.waiting(FARTHER)) == 1
    assert cell.text.get(cell.keys.lane(FARTHER) + ":aside") == "a string"


def test_what_waits_is_read_in_parts(cell: Cell) -> None:
    """Newest first, each with its message; an empty part is past the end."""
    jobs = cell.jobs(5)
    store = cell.store.rollouts()
    parts = [store.waiting(LANE, start, 2) for start in (0, 2, 4, 6)]

    assert [len(part) for part in parts] == [2, 2, 1, 0]
    assert [frame[:16].decode() for part in parts for frame, _ in part] == list(reversed(jobs))
    assert [message for part in parts for _, message in part] == [cell.messages()[job] for job in reversed(jobs)]
