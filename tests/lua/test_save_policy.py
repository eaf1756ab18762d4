"""save_policy: what the leader has learned outlives it."""

from __future__ import annotations

import pytest

from dispatcher.errors import NotLeader
from tests.lua.cell import Cell, nothing_written


def test_what_is_saved_is_there_for_the_next_leader(cell: Cell) -> None:
    """A subject is replaced; the others stay as they were."""
    cell.store.policy().save({"speeds": b"old", "costs": b"{}"})
    cell.store.policy().save({"speeds": b"new"})

    assert cell.leader("leader-2").policy().load() == {"speeds": b"new", "costs": b"{}"}


def test_only_the_leader_saves(cell: Cell) -> None:
    """REFUSED: a leader that was replaced must not undo what its successor has learned."""
    cell.store.policy().save({"speeds": b"new"})

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().policy().save({"speeds": b"old"})


def test_nothing_to_save_writes_nothing(cell: Cell) -> None:
    """Most of the time nothing has changed."""
    with nothing_written(cell):
        cell.store.policy().save({})
