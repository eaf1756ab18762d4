"""purge: waiting jobs are forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.lua.cell import LANE, Cell, nothing_written
from tests.messages import message


def purge(cell: Cell, frames: list[str]) -> Any:
    keys = cell.keys
    return cell.scripts("purge", [keys.lane(LANE), keys.messages, keys.lanes], [LANE, *frames])


def purge_scheduled(cell: Cell, entries: list[str]) -> Any:
    keys = cell.keys
    return cell.scripts("purge", [keys.scheduled, keys.messages, keys.lanes], ["", *entries])


def frames(cell: Cell) -> list[str]:
    return cell.text.lrange(cell.keys.lane(LANE), 0, -1)


def test_jobs_of_a_lane_are_nowhere(cell: Cell) -> None:
    """Neither frames nor messages, nor the name of the lane; the queue is not touched."""
    cell.jobs(3)
    cell.push(message())

    assert purge(cell, frames(cell)) == [1, 1, 1]
    assert (cell.messages(), cell.whereabouts(), cell.text.smembers(cell.keys.lanes)) == ({}, [], set())
    assert len(cell.ingress()) == 1


def test_scheduled_jobs_are_nowhere(cell: Cell) -> None:
    """Those named; the others wait on."""
    cell.push(*[message(eta="2999-01-01T00:00:00") for _ in range(3)])
    cell.admit()
    entries = cell.text.zrange(cell.keys.scheduled, 0, -1)

    assert purge_scheduled(cell, entries[:2]) == [1, 1]
    assert len(cell.messages()) == 1
    assert cell.text.zrange(cell.keys.scheduled, 0, -1) == entries[2:]


def test_what_was_assigned_meanwhile_goes_on(cell: Cell) -> None:
    """REFUSED for that job alone: its message is kept, and the reply says so."""
    worker = cell.worker()
    cell.jobs(3)
    seen = frames(cell)
    (lease,) = cell.give(worker, 1)

    assert purge(cell, seen) == [0, 1, 1]
    assert list(cell.leases(worker)) == [lease]
    assert len(cell.messages()) == 1


def test_jobs_that_wait_no_more(cell: Cell) -> None:
    """REFUSED: nothing written."""
    cell.jobs(2)
    seen = frames(cell)
    purge(cell, seen)
    cell.jobs(1)

    with nothing_written(cell):
        assert purge(cell, seen) == [0, 0]
        assert purge_scheduled(cell, ["no such entry"]) == [0]


def test_a_lane_of_the_wrong_type(cell: Cell) -> None:
    """REFUSED: nothing written."""
    cell.jobs(1)
    seen = frames(cell)
    cell.client.set("wrong", "a string")
    keys = cell.keys

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cell.scripts("purge", ["wrong", keys.messages, keys.lanes], [LANE, *seen])
