"""change_rollout: an alias is set by whoever saw it as it is."""

from __future__ import annotations

import pytest

from dispatcher.core.rollout.aliases import POINTS
from dispatcher.core.rollout.changes import promote, set_shares
from dispatcher.errors import NotLeader
from dispatcher.store.leader.rollout_store import RolloutStore
from tests.lua.cell import Cell, nothing_written

FIRST = set_shares(None, {"chat@1": POINTS}, 1)
SECOND = set_shares(FIRST, {"chat@2": 500}, 2)


@pytest.fixture
def operator(cell: Cell) -> RolloutStore:
    return RolloutStore(cell.text, cell.keys)


def test_an_alias_is_made_changed_and_removed(cell: Cell, operator: RolloutStore) -> None:
    """By an operator, who leads nothing; the dispatcher wakes up each time. Clients that answer with text or bytes read the same."""
    first = operator.change("chat", None, FIRST)
    assert cell.woken()
    second = operator.change("chat", first, SECOND)
    assert second is not None
    assert operator.read() == cell.store.rollouts().read() == {"chat": second}
    assert operator.change("chat", second, None)
    assert operator.read() == {}
    assert cell.woken()


def test_the_leader_changes_it_too(cell: Cell, operator: RolloutStore) -> None:
    """With its token."""
    first = operator.change("chat", None, FIRST)
    changed = cell.store.rollouts().change("chat", first, SECOND)
    assert operator.read() == {"chat": changed}


def test_who_does_not_lead(cell: Cell, operator: RolloutStore) -> None:
    """REFUSED: nothing written."""
    first = operator.change("chat", None, FIRST)
    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().rollouts().change("chat", first, SECOND)


def test_of_two_changes_of_the_same_one_holds(cell: Cell, operator: RolloutStore) -> None:
    """REFUSED for whoever comes second, be it that the alias was not there before, or that it has gone."""
    first = operator.change("chat", None, FIRST)
    assert first is not None
    with nothing_written(cell):
        assert operator.change("chat", None, SECOND) is None
    second = operator.change("chat", first, SECOND)
    with nothing_written(cell):
        assert operator.change("chat", first, promote(FIRST, "chat@1", 3)) is None
        assert cell.store.rollouts().change("chat", first, None) is None
    assert operator.change("chat", second, None)
    with nothing_written_but_wake(cell):
        assert operator.change("chat", second, FIRST) is None


def nothing_written_but_wake(cell: Cell):  # type: ignore[no-untyped-def]
    return nothing_written(cell, without=cell.keys.wake)


def test_what_cannot_be_read_is_left_out(cell: Cell, operator: RolloutStore) -> None:
    """A hand wrote it, or a later version: the other aliases go on."""
    operator.change("chat", None, FIRST)
    cell.text.hset(cell.keys.rollouts, mapping={"bad": "{", "worse": '{"ranges": 5}'})
    assert list(operator.read()) == ["chat"]
