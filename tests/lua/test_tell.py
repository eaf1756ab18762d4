"""tell: what the leader sees, for those who look."""

from __future__ import annotations

import pytest

from dispatcher.errors import NotLeader
from tests.lua.cell import Cell, nothing_written


def test_what_is_told_stands_until_it_is_told_anew(cell: Cell) -> None:
    """And not for long after that: a dead leader's view is of no use."""
    cell.store.tell(b'{"strategy":"old"}')
    cell.store.tell(b'{"strategy":"new"}')

    assert cell.client.get(cell.keys.leader_view) in ('{"strategy":"new"}', b'{"strategy":"new"}')
    assert 0 < cell.client.pttl(cell.keys.leader_view) <= 6_000


def test_only_the_leader_tells(cell: Cell) -> None:
    """REFUSED: one that was replaced sees an old world."""
    cell.store.tell(b'{"strategy":"new"}')

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().tell(b'{"strategy":"old"}')
