"""free_alone: a worker is a worker like any other once its suspect's lease has ended."""

from __future__ import annotations

import pytest

from dispatcher.errors import NotLeader
from tests.lua.cell import Cell, nothing_written
from tests.lua.test_assign_alone import SUSPECTS, suspects


def test_those_whose_suspect_has_ended_are_forgotten(cell: Cell) -> None:
    """However it ended; a new leader learns the others."""
    suspects(cell, 3)
    store = cell.store.suspects()
    ran, runs, died = (cell.worker(letter * 12) for letter in "abc")
    for worker in (ran, runs, died):
        assert store.assign(worker.epoch, lane=SUSPECTS)
        worker.take(cell.pop(worker))
    (lease,) = cell.leases(ran)
    ran.ack([lease])
    died.goodbye()
    cell.client.delete(cell.keys.leases(died.epoch))

    successor = cell.leader("leader-2").suspects()
    assert successor.epochs() == {ran.epoch, runs.epoch, died.epoch}
    assert successor.free(successor.epochs()) == {runs.epoch}
    assert successor.epochs() == {runs.epoch}
    assert successor.free([]) == set()


def test_an_epoch_that_is_not_there_is_none(cell: Cell) -> None:
    """A leader may ask for one that it was told of by nobody."""
    with nothing_written(cell):
        assert cell.store.suspects().free(["ffffffffffff"]) == set()


def test_only_the_leader(cell: Cell) -> None:
    """REFUSED for anybody else: nothing is written."""
    suspects(cell, 1)
    worker = cell.worker()
    cell.store.suspects().assign(worker.epoch, lane=SUSPECTS)
    worker.ack(list(cell.leases(worker)))

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().suspects().free([worker.epoch])
