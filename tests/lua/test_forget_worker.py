"""forget_worker: the last step of a reap."""

from __future__ import annotations

import pytest

from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import NotLeader
from dispatcher.store.leader.dispatch_store import SHOW_DEAD_MS
from tests.lua.cell import Cell, nothing_written


def test_what_is_left_is_a_note_that_expires(cell: Cell) -> None:
    """No key of the epoch stays for good; for a minute `status` can still show who is gone."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    worker.heartbeat({}, b"{}")
    other.heartbeat({}, b"{}")
    (lease,) = cell.leased(worker, 1)
    worker.take(cell.pop(worker))
    worker.goodbye()
    cell.store.giveback(worker.epoch, [GiveBack(lease)])

    assert cell.store.forget_worker(worker.epoch)

    assert cell.text.smembers(cell.keys.workers) == {other.epoch}
    assert set(cell.store.policy().totals()) == {other.epoch}
    assert [epoch for epoch, _ in cell.text.zrange(cell.keys.gone, 0, -1, withscores=True)] == [worker.epoch]
    of_epoch = list(cell.text.scan_iter(f"*{worker.epoch}*"))
    assert set(of_epoch) == {cell.keys.worker(worker.epoch), cell.keys.dead(worker.epoch)}
    assert all(cell.text.pttl(key) > 0 for key in of_epoch)
    assert cell.text.pttl(cell.keys.worker(worker.epoch)) <= SHOW_DEAD_MS
    assert 0 < cell.text.pttl(cell.keys.gone) <= SHOW_DEAD_MS


def test_a_worker_with_leases_is_not_forgotten(cell: Cell) -> None:
    """REFUSED: they are the only place those jobs are in."""
    worker = cell.worker()
    cell.leased(worker, 1)
    worker.goodbye()

    with nothing_written(cell):
        assert not cell.store.forget_worker(worker.epoch)


def test_a_living_worker_is_not_forgotten(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()

    with nothing_written(cell):
        assert not cell.store.forget_worker(worker.epoch)


def test_only_the_leader_forgets(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    worker.goodbye()

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().forget_worker(worker.epoch)


def test_old_notes_go(cell: Cell) -> None:
    """The list of those who are gone does not grow with the fleet's history."""
    cell.text.zadd(cell.keys.gone, {"long-ago": 1.0})
    worker = cell.worker()
    worker.goodbye()
    cell.store.forget_worker(worker.epoch)

    assert cell.text.zrange(cell.keys.gone, 0, -1) == [worker.epoch]
