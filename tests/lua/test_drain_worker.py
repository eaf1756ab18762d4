"""drain_worker: nothing new for a worker, or something new again."""

from __future__ import annotations

import pytest

from dispatcher.core.facts.decisions import Assign
from tests.lua.cell import LANE, Cell, nothing_written


@pytest.mark.parametrize("mode", ["exit", "keep"])
def test_a_draining_worker_keeps_what_it_has_and_gets_nothing(cell: Cell, mode: str) -> None:
    """It can take and ack; the dispatcher wakes up to recall the rest."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    cell.jobs(1)
    cell.woken()

    assert worker.drain(mode)

    assert cell.woken()
    assert cell.assign(Assign(LANE, worker.epoch, 1, 10, 0.0)) == [0]
    assert worker.take(lease)
    assert worker.ack([lease]) == 1


def test_undrained_it_gets_jobs_again(cell: Cell) -> None:
    """As before."""
    worker = cell.worker()
    worker.drain("keep")
    assert worker.drain("")
    cell.jobs(1)

    assert cell.assign(Assign(LANE, worker.epoch, 1, 10, 0.0)) == [1]


@pytest.mark.parametrize("mode", ["keep", ""])
def test_who_exits_cannot_be_held_back(cell: Cell, mode: str) -> None:
    """REFUSED: it may have stopped listening already, and would be given jobs."""
    worker = cell.worker()
    assert worker.drain("exit")

    with nothing_written(cell):
        assert not worker.drain(mode)
    assert worker.drain("exit")


def test_who_does_not_live_cannot_be_drained(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    worker.goodbye()

    with nothing_written(cell):
        assert not worker.drain("exit")
        assert not worker.drain("")
