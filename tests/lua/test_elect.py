"""elect: one dispatcher leads a cell."""

from __future__ import annotations

from dispatcher.store.leader.dispatch_store import DispatchStore, Lead
from tests.lua.cell import Cell, nothing_written

TTL_MS = 60_000


def candidate(cell: Cell, token: str) -> DispatchStore:
    return DispatchStore(cell.client, cell.keys, token)


def elect(store: DispatchStore, ttl_ms: int = TTL_MS, *, resign: bool = False) -> Lead:
    return store.elect(ttl_ms=ttl_ms, info={"host": store.token}, resign=resign)


def test_the_first_leads_and_the_second_stands_by(cell: Cell) -> None:
    """REFUSED for the second: it writes nothing, and does not lengthen the first one's lead either."""
    first, second = cell.store, candidate(cell, "two")
    cell.client.pexpire(cell.keys.leader, 30_000)

    with nothing_written(cell):
        assert not elect(second)
    assert cell.text.pttl(cell.keys.leader) <= 30_000
    assert elect(first)
    assert cell.text.pttl(cell.keys.leader) > 30_000
    assert "leader-1" in cell.text.hget(cell.keys.leader_info, "info")


def test_an_expired_lead_is_taken_over(cell: Cell) -> None:
    """And the old leader does not get it back by renewing."""
    first, second = cell.store, candidate(cell, "two")
    cell.client.delete(cell.keys.leader)

    assert elect(second)
    assert not elect(first)
    assert cell.text.get(cell.keys.leader) == "two"


def test_a_leader_may_resign(cell: Cell) -> None:
    """At once, so that a standby need not wait."""
    first, second = cell.store, candidate(cell, "two")

    assert not elect(first, resign=True)
    assert cell.text.exists(cell.keys.leader, cell.keys.leader_info) == 0
    assert elect(second)


def test_a_standby_cannot_resign_for_the_leader(cell: Cell) -> None:
    """REFUSED."""
    second = candidate(cell, "two")

    with nothing_written(cell):
        assert not elect(second, resign=True)


def test_the_lead_expires(cell: Cell) -> None:
    """A leader that dies is replaced without anybody's help."""
    elect(cell.store, ttl_ms=1_234)

    assert 0 < cell.text.pttl(cell.keys.leader) <= 1_234


def test_after_a_loss_of_redis_last_writes_two_are_never_equal(cell: Cell) -> None:
    """The lock goes back to an older holder; tokens are random, so the newer one is simply refused (scenario 56)."""
    second = candidate(cell, "two")
    cell.client.delete(cell.keys.leader)
    elect(second)
    cell.client.set(cell.keys.leader, "leader-1")

    assert not elect(second)
    assert elect(cell.store)


def test_who_leads_anew_is_told_so(cell: Cell) -> None:
    """Even the one that led last: its lead had expired, and another may have led in between. The old leader's view is gone by then."""
    cell.store.tell(b"{}")
    assert elect(cell.store) is Lead.KEPT
    assert cell.text.exists(cell.keys.leader_view)
    cell.client.delete(cell.keys.leader)

    assert elect(cell.store) is Lead.GAINED
    assert not cell.text.exists(cell.keys.leader_view)
    assert elect(candidate(cell, "two")) is Lead.NONE


def test_a_lead_that_was_dated_before_redis_clock_was_set_back_is_taken_over(cell: Cell) -> None:
    """It would outlast its dead leader for as long as the step back. Nobody knows how long one lasts whose leader does not say."""
    one, two, three = cell.store, candidate(cell, "two"), candidate(cell, "three")
    elect(one, resign=True)
    elect(one)
    cell.client.pexpire(cell.keys.leader, TTL_MS)
    assert not elect(two)

    cell.client.pexpire(cell.keys.leader, 3_600_000 + TTL_MS)
    assert elect(two) is Lead.GAINED
    assert not elect(one)

    for garbage in ("x", None):
        cell.client.delete(cell.keys.leader_info)
        if garbage:
            cell.client.set(cell.keys.leader_info, garbage)
        cell.client.pexpire(cell.keys.leader, 3_600_000 + TTL_MS)
        assert not elect(three)
