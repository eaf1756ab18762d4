"""note_turns: which of a task id's messages came last, for workers that are given an earlier one again."""

from __future__ import annotations

from tests.lua.cell import Cell, nothing_written
from tests.messages import message

JOB = "the-same-id"


def admit(cell: Cell, **headers: object) -> int:
    cell.push(message(JOB, **headers))
    return cell.admit()


def test_the_last_turn_that_was_admitted_is_known(cell: Cell) -> None:
    """To every worker, for a day; a replacement comes after all retries of what it replaced."""
    worker = cell.worker()
    seen = []
    for headers in ({"retries": 1}, {"retries": 2}, {"retries": 0, "replaced_task_nesting": 1}, {"retries": 1, "replaced_task_nesting": 1}):
        assert admit(cell, **headers) == 1
        seen.append(worker.turn(JOB)[0])

    assert seen == sorted(set(seen))
    assert seen[0] > 0
    assert worker.turn("another") == (0, 0)
    assert 0 < cell.client.pttl(cell.keys.turn(JOB)) <= 24 * 3600 * 1000


def test_it_is_known_when_it_came(cell: Cell) -> None:
    """In ms of Redis' time, no later than the job itself was admitted: so an earlier job of the same id can be told from a later one."""
    worker = cell.worker()
    before_s, _ = cell.text.time()
    admit(cell, retries=1)
    [entry] = cell.waiting()

    assert before_s * 1000 <= worker.turn(JOB)[1] <= entry.admitted_ms


def test_first_turns_are_not_noted(cell: Cell) -> None:
    """They are nearly all jobs, and nobody asks."""
    admit(cell)

    assert not cell.client.exists(cell.keys.turn(JOB))


def test_a_key_of_somebody_else_stops_no_job(cell: Cell) -> None:
    """Of whatever type; nor does one that holds no number."""
    worker = cell.worker()
    cell.client.lpush(cell.keys.turn(JOB), "x")
    assert worker.turn(JOB) == (0, 0)
    assert admit(cell, retries=1) == 1
    assert worker.turn(JOB)[0] == 1
    cell.client.set(cell.keys.turn(JOB), "what is this")
    assert worker.turn(JOB) == (0, 0)
    assert admit(cell, retries=1) == 1

    assert worker.turn(JOB)[0] == 1


def test_only_the_leader_notes(cell: Cell) -> None:
    """REFUSED."""
    cell.leader("leader-2")

    with nothing_written(cell):
        assert cell.scripts("note_turns", [cell.keys.leader, cell.keys.turn(JOB)], ["leader-1", 1000, 1]) == -1
