"""release: waiting jobs become plain Celery messages in their queue again."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.lua.cell import LANE, Cell, nothing_written
from tests.messages import message


def release(cell: Cell, *, limit: int = 500, ingress: str = "dispatch") -> Any:
    keys = cell.keys
    return cell.scripts("release", [keys.lane(LANE), ingress, keys.messages, keys.lanes], [LANE, limit])


def release_scheduled(cell: Cell, entries: list[str]) -> Any:
    keys = cell.keys
    return cell.scripts("release", [keys.scheduled, "dispatch", keys.messages, keys.lanes], ["", 500, *entries])


def sent(cell: Cell, count: int, **facts: Any) -> list[bytes]:
    made = [message(f"id-{i}", **facts) for i in range(count)]
    for at in range(0, count, 500):
        cell.push(*made[at : at + 500])
        cell.admit()
    return made


def test_jobs_are_next_in_their_queue_in_their_old_order(cell: Cell) -> None:
    """Byte for byte, ahead of what came since; nothing of them is kept here."""
    made = sent(cell, 5)
    cell.push(since := message())

    assert release(cell) == 5

    assert cell.ingress() == [*made, since]
    assert cell.messages() == {}
    assert cell.whereabouts() == []
    assert cell.text.smembers(cell.keys.lanes) == set()


def test_9000_jobs_go_in_bounded_calls(cell: Cell) -> None:
    """Each is in one place after each call: in keeping, or in the queue. The order is the old one."""
    made = sent(cell, 9_000)
    calls = 0
    while moved := release(cell):
        calls += 1
        assert moved == 500
        assert len(cell.ingress()) + len(cell.messages()) == 9_000

    assert calls == 18
    assert cell.ingress() == made


def test_scheduled_jobs_go_by_their_entries(cell: Cell) -> None:
    """Celery's own workers wait for an eta themselves."""
    made = sent(cell, 3, eta="2999-01-01T00:00:00")
    entries = cell.text.zrange(cell.keys.scheduled, 0, -1)

    assert release_scheduled(cell, entries[:2]) == 2
    assert sorted(cell.ingress()) == sorted(made[:2])
    assert len(cell.messages()) == cell.text.zcard(cell.keys.scheduled) == 1
    with nothing_written(cell):
        assert release_scheduled(cell, entries[:2]) == 0


def test_leased_jobs_stay(cell: Cell) -> None:
    """What a worker owes is not waiting."""
    worker = cell.worker()
    sent(cell, 2)
    cell.give(worker, 1)

    assert release(cell) == 1
    assert len(cell.leases(worker)) == len(cell.messages()) == 1


def test_an_empty_lane(cell: Cell) -> None:
    """REFUSED: nothing to move, nothing written."""
    sent(cell, 1)
    release(cell)

    with nothing_written(cell):
        assert release(cell) == 0


def test_a_queue_of_the_wrong_type_keeps_the_jobs(cell: Cell) -> None:
    """REFUSED before the first job leaves its lane."""
    sent(cell, 2)
    cell.client.set("wrong", "a string")

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        release(cell, ingress="wrong")
