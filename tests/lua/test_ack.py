"""ack: jobs that have ended leave the cell."""

from __future__ import annotations

import pytest
import redis

from dispatcher.errors import EpochEnded
from tests.lua.cell import Cell, nothing_written


def test_an_ended_job_leaves_nothing_behind(cell: Cell) -> None:
    """Lease, mark and message go; the other job's stay."""
    worker = cell.worker()
    ended, running = cell.leased(worker, 2)
    worker.take(ended)
    worker.take(running)
    job = cell.leases(worker)[running].job

    assert worker.ack([ended]) == 1

    assert set(cell.leases(worker)) == cell.taken(worker) == {running}
    assert set(cell.messages()) == {job}


def test_after_the_last_ack_the_cell_is_empty(cell: Cell) -> None:
    """No key of any job is left."""
    worker = cell.worker()
    ids = cell.leased(worker, 500)
    for _ in ids:
        worker.take(cell.pop(worker))

    assert worker.ack(ids) == 500
    left = set(cell.text.scan_iter("*"))
    keys = cell.keys
    assert left <= {
        keys.leader, keys.leader_info, keys.sequence, keys.workers, keys.worker(worker.epoch), keys.alive(worker.epoch),
        keys.ingress_queues, keys.wake,
    }  # fmt: skip


def test_an_ack_may_come_again(cell: Cell) -> None:
    """REFUSED in part: the outbox sends it until it was answered, and what is acked already counts for nothing."""
    worker = cell.worker()
    first, second = cell.leased(worker, 2)
    assert worker.ack([first]) == 1

    with nothing_written(cell):
        assert worker.ack([first]) == 0
        assert worker.ack(["unknown"]) == 0
    assert worker.ack([first, second, "unknown"]) == 1


def test_the_ack_of_a_dead_epoch_changes_nothing(cell: Cell) -> None:
    """REFUSED: its jobs belong to others (scenario 9)."""
    worker = cell.worker()
    ids = cell.leased(worker, 2)
    worker.take(ids[0])
    worker.goodbye()

    with nothing_written(cell), pytest.raises(EpochEnded):
        worker.ack(ids)


def test_another_workers_lease_cannot_be_acked(cell: Cell) -> None:
    """REFUSED."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    ids = cell.leased(worker, 1)

    with nothing_written(cell):
        assert other.ack(ids) == 0


def test_more_than_a_call_may_hold_ends_nothing(cell: Cell) -> None:
    """REFUSED before the first write: 9,000 ids are more than Lua unpacks."""
    worker = cell.worker()
    ids = cell.leased(worker, 2)

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="unpack"):
        worker.ack([*ids, *(f"x{i}" for i in range(9_000))])


def test_the_dispatcher_is_woken_where_jobs_wait(cell: Cell) -> None:
    """There is room now. Where nothing waits, nobody need look."""
    worker = cell.worker()
    first, second = cell.leased(worker, 2)
    cell.woken()

    worker.ack([first])
    assert not cell.woken()
    cell.jobs(1)
    worker.ack([second])
    assert cell.woken()


def test_one_word_wakes_as_well_as_many(cell: Cell) -> None:
    """The wake list does not grow with acks."""
    worker = cell.worker()
    ids = cell.leased(worker, 5)
    cell.jobs(1)
    for id_ in ids:
        worker.ack([id_])

    assert cell.text.llen(cell.keys.wake) == 1
