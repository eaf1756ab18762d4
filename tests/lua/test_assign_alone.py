"""assign_alone: a suspect gets a worker that owes nothing, and never another."""

from __future__ import annotations

import pytest

from dispatcher.core.facts.lane import ALONE
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.returns.poison import Attempt
from dispatcher.errors import NotLeader
from tests.lua.cell import LANE, Cell, nothing_written

SUSPECTS = LANE + ALONE
DIED = Attempt("w@h", "aaaaaaaaaaaa", "it died", alone=False)


def suspects(cell: Cell, count: int) -> list[str]:
    """So many wait in the lane of suspects; their numbers, next first."""
    worker = cell.worker("dddddddddddd")
    leases = cell.leased(worker, count)
    worker.giveback([GiveBack(id_, "reaps", attempt=DIED, suspect=True) for id_ in reversed(leases)])
    worker.goodbye()
    return [entry.job for entry in cell.waiting(SUSPECTS)]


def test_the_next_suspect_goes_to_an_idle_worker(cell: Cell) -> None:
    """It is leased, in the worker's list, and known to run alone; the others wait on."""
    first, second = suspects(cell, 2)
    worker = cell.worker()

    assert cell.store.suspects().assign(worker.epoch, lane=SUSPECTS)
    (lease,) = cell.queued(worker)
    assert cell.leases(worker)[lease].job == first
    assert cell.leases(worker)[lease].lane == SUSPECTS
    assert cell.text.hgetall(cell.keys.alone) == {worker.epoch: lease}
    assert [entry.job for entry in cell.waiting(SUSPECTS)] == [second]
    assert worker.take(lease) is not None


def test_the_last_one_takes_its_lane_with_it(cell: Cell) -> None:
    """An empty lane is not in the set that the snapshot reads."""
    suspects(cell, 1)

    assert cell.store.suspects().assign(cell.worker().epoch, lane=SUSPECTS)
    assert cell.text.smembers(cell.keys.lanes) == set()


def test_nothing_for_a_worker_that_owes_anything_drains_or_is_dead(cell: Cell) -> None:
    """Nor anything where nobody waits: nothing is written."""
    suspects(cell, 1)
    busy, draining, dead, idle = (cell.worker(letter * 12) for letter in "abce")
    cell.leased(busy, 1)
    draining.drain("keep")
    dead.goodbye()
    store = cell.store.suspects()

    with nothing_written(cell):
        assert not any(store.assign(worker.epoch, lane=SUSPECTS) for worker in (busy, draining, dead))
        assert not store.assign(idle.epoch, lane=LANE)


def test_only_the_leader(cell: Cell) -> None:
    """REFUSED for anybody else: nothing is written."""
    suspects(cell, 1)
    worker = cell.worker()

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().suspects().assign(worker.epoch, lane=SUSPECTS)
