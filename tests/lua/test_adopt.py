"""adopt: what runs while Redis loses its state is leased again, under the id that it has."""

from __future__ import annotations

import pytest

from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import EpochEnded
from tests.life import Life
from tests.lua.cell import Cell, nothing_written

Job = tuple[str, bytes, bytes]


def running(cell: Cell, count: int) -> tuple[Life, list[Job]]:
    """A worker that has taken so many jobs, and what it holds of each."""
    worker = cell.worker()
    held = []
    for lease_id in cell.leased(worker, count):
        entry = cell.client.hget(cell.keys.leases(worker.epoch), lease_id)
        taken = worker.take(lease_id)
        assert taken is not None
        assert isinstance(entry, bytes)
        held.append((lease_id, entry, taken.message))
    return worker, held


def test_after_a_loss_of_everything_the_new_life_owes_what_it_runs(cell: Cell) -> None:
    """More than one call holds. It acks some; it dies, and the others go back in line, messages and all."""
    _, held = running(cell, 60)
    cell.client.flushall()
    store, anew = cell.leader("leader-2"), cell.worker("bbbbbbbbbbbb")

    assert anew.adopt(held) == 60
    assert cell.leases(anew).keys() == cell.taken(anew) == {id_ for id_, _, _ in held}
    assert anew.ack([id_ for id_, _, _ in held[:58]]) == 58
    anew.goodbye()
    assert store.giveback(anew.epoch, [GiveBack(id_) for id_, _, _ in reversed(held[58:])]) == 2
    assert [cell.messages()[entry.job] for entry in cell.waiting()] == [message for _, _, message in held[58:]]


def test_it_may_be_called_again(cell: Cell) -> None:
    """The answer to the first call was lost."""
    _, held = running(cell, 2)
    cell.client.flushall()
    anew = cell.worker("bbbbbbbbbbbb")
    anew.adopt(held)

    with nothing_written(cell):
        assert anew.adopt(held) == 2


def test_a_job_that_waits_again_is_taken_out_of_its_lane(cell: Cell) -> None:
    """Redis came back as it was before the job was assigned: nobody else is given it."""
    worker, held = running(cell, 2)
    worker.giveback([GiveBack(id_) for id_, _, _ in reversed(held)])
    behind = cell.jobs(1)
    anew = cell.worker("bbbbbbbbbbbb")

    assert anew.adopt(held) == 2
    assert [entry.job for entry in cell.waiting()] == behind
    assert cell.whereabouts() == sorted({entry.decode()[:16] for _, entry, _ in held} | set(behind))
    assert anew.adopt([]) == 0


def test_the_last_job_of_a_lane_takes_its_name_along(cell: Cell) -> None:
    """Nothing would ever remove it."""
    worker, held = running(cell, 1)
    worker.giveback([GiveBack(held[0][0])])
    assert cell.text.scard(cell.keys.lanes) == 1

    assert cell.worker("bbbbbbbbbbbb").adopt(held) == 1
    assert cell.text.scard(cell.keys.lanes) == 0


def test_a_job_that_another_life_owes_stays_there(cell: Cell) -> None:
    """It is not leased twice; the caller is told that it is not its own."""
    _, held = running(cell, 1)
    anew = cell.worker("bbbbbbbbbbbb")

    with nothing_written(cell):
        assert anew.adopt(held) == 0


def test_a_life_that_has_ended_adopts_nothing(cell: Cell) -> None:
    """REFUSED."""
    _, held = running(cell, 1)
    cell.client.hdel(cell.keys.messages, held[0][1].decode()[:16])
    anew = cell.worker("bbbbbbbbbbbb")
    anew.goodbye()

    with nothing_written(cell), pytest.raises(EpochEnded):
        anew.adopt(held)
