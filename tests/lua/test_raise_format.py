"""raise_format: a cell moves on to a newer format when everybody there reads it."""

from __future__ import annotations

import pytest

from dispatcher.store.formats import Formats
from tests.lua.cell import Cell, nothing_written


def stored(cell: Cell) -> Formats | None:
    return cell.store.formats().read().stored


def test_a_cell_that_has_jobs_keeps_format_1_beside_the_new_one(cell: Cell) -> None:
    """What lies there is not rewritten, so whoever starts later must read both."""
    cell.jobs(1)
    assert stored(cell) == (1, 1)

    assert cell.store.formats().raise_to(2, [])
    assert stored(cell) == (1, 2)
    assert cell.store.formats().raise_to(3, [])
    assert stored(cell) == (1, 3)


def test_a_cell_without_jobs_has_the_new_format_alone(cell: Cell) -> None:
    """Nothing was ever stored there, so nobody need read format 1."""
    assert stored(cell) is None

    assert cell.store.formats().raise_to(2, [])
    assert stored(cell) == (2, 2)


def test_a_worker_that_the_leader_has_not_seen_keeps_the_format_as_it_is(cell: Cell) -> None:
    """REFUSED: it may not read the new one. It registered after the leader's last look, say."""
    seen, unseen = cell.worker(), cell.worker("bbbbbbbbbbbb")

    with nothing_written(cell):
        assert not cell.store.formats().raise_to(2, [seen.epoch])
    assert cell.store.formats().raise_to(2, [seen.epoch, unseen.epoch])


@pytest.mark.parametrize("text", ["nine", "", "1 2 3"])
def test_text_that_is_no_range_counts_as_unsaid(cell: Cell, text: str) -> None:
    """It stops nobody, and is written over."""
    cell.jobs(1)
    cell.client.set(cell.keys.formats, text)

    assert stored(cell) == (1, 1)
    worker = cell.worker()
    assert cell.store.formats().raise_to(2, [worker.epoch])
    assert stored(cell) == (1, 2)


def test_a_key_of_another_type_counts_as_unsaid(cell: Cell) -> None:
    """It stops nobody, and is written over."""
    cell.jobs(1)
    cell.client.lpush(cell.keys.formats, "1 9")

    assert stored(cell) == (1, 1)
    worker = cell.worker()
    assert cell.store.formats().raise_to(2, [worker.epoch])
    assert stored(cell) == (1, 2)
