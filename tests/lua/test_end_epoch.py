"""end_epoch: from here on the epoch can take, ack and be assigned nothing."""

from __future__ import annotations

import pytest

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import EpochEnded, NotLeader
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, BeatStatus
from tests.lua.cell import LANE, Cell, nothing_written

LEASE_TTL_MS = 5_000


def silence(cell: Cell, epoch: str, for_ms: int) -> None:
    """As if the last beat were that long ago."""
    cell.client.pexpire(cell.keys.alive(epoch), ALIVE_TTL_MS - for_ms)


def test_a_goodbye_ends_everything_but_the_leases(cell: Cell) -> None:
    """Those are given back by the leader; until then they hold their jobs."""
    worker = cell.worker()
    jobs = cell.jobs(2)
    ids = cell.give(worker, 1)
    cell.woken()
    worker.goodbye()

    assert cell.woken()
    assert worker.take(ids[0]) is None
    with pytest.raises(EpochEnded):
        worker.ack(ids)
    with pytest.raises(EpochEnded):
        worker.giveback([GiveBack(ids[0])])
    assert worker.heartbeat({}).status is BeatStatus.DEAD
    assert cell.assign(Assign(LANE, worker.epoch, 1, 10, 0.0)) == [0]
    assert cell.whereabouts() == jobs


def test_a_second_goodbye_changes_nothing(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    worker.goodbye()

    with nothing_written(cell):
        worker.goodbye()


def test_a_silent_worker_is_declared_dead(cell: Cell) -> None:
    """The reason is kept for it to hear."""
    worker = cell.worker()
    silence(cell, worker.epoch, LEASE_TTL_MS + 10)

    assert cell.store.end_silent(worker.epoch, beat_age_ms=LEASE_TTL_MS)
    assert cell.text.get(cell.keys.dead(worker.epoch)) == "silent"
    assert cell.text.exists(cell.keys.alive(worker.epoch)) == 0


def test_a_silent_worker_is_declared_dead_though_redis_clock_was_set_back(cell: Cell) -> None:
    """By an hour, after its last beat, which then seems to come from the future."""
    worker = cell.worker()
    silence(cell, worker.epoch, LEASE_TTL_MS - 3_600_000)

    assert cell.store.end_silent(worker.epoch, beat_age_ms=LEASE_TTL_MS - 3_600_000)


def test_a_worker_that_beat_after_all_lives(cell: Cell) -> None:
    """REFUSED: between the look and this call it was heard (scenario 57)."""
    worker = cell.worker()
    silence(cell, worker.epoch, LEASE_TTL_MS + 10)
    worker.heartbeat({})

    with nothing_written(cell):
        assert not cell.store.end_silent(worker.epoch, beat_age_ms=LEASE_TTL_MS)
    assert worker.heartbeat({}).status is BeatStatus.OK


def test_only_the_leader_declares_dead(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    silence(cell, worker.epoch, LEASE_TTL_MS + 10)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().end_silent(worker.epoch, beat_age_ms=LEASE_TTL_MS)


def test_another_life_of_the_same_name_goes_on(cell: Cell) -> None:
    """What ends is an epoch, never a name."""
    worker, other = cell.worker(name="gpu1@h"), cell.worker("bbbbbbbbbbbb", name="gpu1@h")
    (lease,) = cell.leased(other, 1)
    worker.goodbye()

    assert other.take(lease)
    assert other.ack([lease]) == 1
