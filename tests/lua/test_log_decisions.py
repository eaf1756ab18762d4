"""log_decisions: what the leader decided, of the last so many jobs."""

from __future__ import annotations

import pytest

from dispatcher.errors import NotLeader
from tests.lua.cell import Cell, nothing_written


def ids(cell: Cell) -> list[str]:
    return [id_.decode() for id_, _ in cell.client.xrange(cell.keys.decisions)]


def test_an_id_counts_the_jobs_before(cell: Cell) -> None:
    """Over calls too, and under another leader; so what is too old can be told from an id alone."""
    cell.store.log_decisions([(3, b"a"), (1, b"b")], kept=100)
    cell.leader("leader-2").log_decisions([(5, b"c")], kept=100)

    assert ids(cell) == ["1-0", "4-0", "5-0"]
    assert [facts[b"tick"] for _, facts in cell.client.xrange(cell.keys.decisions)] == [b"a", b"b", b"c"]
    assert cell.text.pttl(cell.keys.decisions) > 0


def test_no_more_jobs_are_kept_than_asked_for(cell: Cell) -> None:
    """Whole ticks are dropped, the oldest first; the last one stays."""
    for _ in range(5):
        cell.store.log_decisions([(4, b"x"), (2, b"y")], kept=10)

    assert ids(cell) == ["23-0", "25-0", "29-0"]
    cell.store.log_decisions([(10, b"z")], kept=10)
    assert ids(cell) == ["31-0"]


@pytest.mark.parametrize("n", ["0", "-3", "x", "nan", "1e300"])
def test_an_entry_that_is_none_of_ours(cell: Cell, n: str) -> None:
    """Nothing could be counted from it: it is moved aside with the rest, and the log begins anew."""
    cell.client.xadd(cell.keys.decisions, {"n": n, "tick": "a"}, id="7-0")
    cell.store.log_decisions([(2, b"b"), (1, b"c")], kept=100)

    assert ids(cell) == ["1-0", "3-0"]
    assert cell.client.xlen(f"{cell.keys.decisions}:aside") == 1


def test_an_id_that_nothing_could_follow(cell: Cell) -> None:
    """Larger than Lua counts exactly."""
    cell.client.xadd(cell.keys.decisions, {"n": 1, "tick": "a"}, id=f"{2**60}-0")
    cell.store.log_decisions([(1, b"b")], kept=100)

    assert ids(cell) == ["1-0"]


def test_a_key_of_another_type(cell: Cell) -> None:
    """It is moved aside."""
    cell.client.set(cell.keys.decisions, "mine")
    cell.store.log_decisions([(1, b"b")], kept=100)

    assert ids(cell) == ["1-0"]
    assert cell.client.get(f"{cell.keys.decisions}:aside") == b"mine"


def test_not_the_leader(cell: Cell) -> None:
    """REFUSED."""
    cell.store.log_decisions([(1, b"a")], kept=10)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().log_decisions([(1, b"b")], kept=10)
