"""assign_probe: a probe for one worker, and never two."""

from __future__ import annotations

import pytest

from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import NotLeader
from dispatcher.leader.health.probe import probe_message
from tests.life import Life
from tests.lua.cell import Cell, nothing_written

LANE = lane_name(Lane("dispatch", "dispatcher.probe", "default", 0, 0))
MESSAGE = probe_message(0)


def probe(cell: Cell, worker: Life, window: int = 1) -> bool:
    return cell.store.assign_probe(worker.epoch, lane=LANE, window=window, message=MESSAGE)


def test_a_probe_is_a_job_of_that_worker(cell: Cell) -> None:
    """It takes and acks it as any other, and nothing is left."""
    worker = cell.worker()

    assert probe(cell, worker)
    (lease,) = cell.queued(worker)
    assert cell.leases(worker)[lease].lane == LANE
    taken = worker.take(lease)
    assert taken is not None
    assert taken.message == MESSAGE
    assert worker.ack([lease]) == 1
    assert cell.messages() == {}
    assert cell.whereabouts() == []


def test_one_at_a_time(cell: Cell) -> None:
    """Whoever leads: what is on its way is known to Redis."""
    worker = cell.worker()
    probe(cell, worker)

    with nothing_written(cell):
        assert not probe(cell, worker, window=10)
    worker.ack(cell.queued(worker))
    assert probe(cell, worker, window=10)


def test_a_full_a_draining_and_a_dead_worker_get_none(cell: Cell) -> None:
    """Nothing is written for any of them."""
    full, draining, dead = cell.worker(), cell.worker("bbbbbbbbbbbb"), cell.worker("cccccccccccc")
    cell.leased(full, 1)
    draining.drain("keep")
    dead.goodbye()

    with nothing_written(cell):
        assert not any(probe(cell, worker) for worker in (full, draining, dead))


def test_a_suspect_stays_alone(cell: Cell) -> None:
    """Whatever the leader thought when it looked: a probe beside it would be blamed, or blame it."""
    worker = cell.worker()
    cell.client.hset(cell.keys.alone, worker.epoch, f"{worker.epoch}.1")

    with nothing_written(cell):
        assert not probe(cell, worker, window=10)
    cell.client.hdel(cell.keys.alone, worker.epoch)
    assert probe(cell, worker, window=10)


def test_a_probe_that_comes_back_is_dropped(cell: Cell) -> None:
    """It waits in no lane, and is no dead letter: it was for that worker alone."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    for counter, bury_at in (("recalls", 0), ("crashes", 1), ("", 0)):
        assert probe(cell, worker)
        worker.giveback([GiveBack(cell.queued(worker)[0], counter, bury_at)])
        assert cell.whereabouts() == []
        assert cell.messages() == {}
        assert cell.queued(worker) == []
    assert cell.queued(other) == []


def test_only_the_leader_probes(cell: Cell) -> None:
    """Another's token is refused."""
    worker = cell.worker()
    cell.client.set(cell.keys.leader, "another")

    with nothing_written(cell), pytest.raises(NotLeader):
        probe(cell, worker)
