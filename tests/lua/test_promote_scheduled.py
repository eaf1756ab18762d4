"""promote_scheduled: what is due goes to its lane, by Redis' clock."""

from __future__ import annotations

import json

import pytest

from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import NotLeader
from dispatcher.store.leader.dispatch_store import DispatchStore
from tests.lua.cell import LANE, Cell, nothing_written
from tests.lua.test_bury_late import FUTURE_MS, jobs_until
from tests.messages import message


def promote(cell: Cell, limit: int = 500, store: DispatchStore | None = None) -> int:
    return (store or cell.store).apply([], tuple, promote=limit).promoted


def schedule(cell: Cell, count: int, *, in_ms: int) -> list[str]:
    """Jobs due that long from now by Redis' clock, 1 ms apart; their numbers in that order."""
    cell.push(*[message(eta="2999-01-01T00:00:00") for _ in range(count)])
    cell.admit()
    seconds, micros = cell.text.time()
    now_ms = seconds * 1000 + micros // 1000
    entries = sorted(cell.text.zrangebyscore(cell.keys.scheduled, "32472144000000", "32472144000000"))
    for at, entry in enumerate(entries):
        cell.text.zadd(cell.keys.scheduled, {entry: now_ms + in_ms + at})
    return [entry[:16] for entry in entries]


def test_what_is_due_waits_in_its_lane_in_the_order_it_was_due(cell: Cell) -> None:
    """Behind what waits there already; what is not due stays; no job is in two places."""
    ahead = cell.jobs(1)
    due = schedule(cell, 3, in_ms=-10_000)
    later = schedule(cell, 2, in_ms=3_600_000)

    assert promote(cell) == 3

    assert [entry.job for entry in cell.waiting()] == ahead + due
    assert [entry[:16] for entry in cell.text.zrange(cell.keys.scheduled, 0, -1)] == later
    assert cell.whereabouts() == sorted(ahead + due + later)
    assert cell.text.smembers(cell.keys.lanes) == {LANE}


def test_nothing_is_due(cell: Cell) -> None:
    """REFUSED: nothing changes."""
    schedule(cell, 2, in_ms=3_600_000)

    with nothing_written(cell):
        assert promote(cell) == 0


def test_not_the_leader(cell: Cell) -> None:
    """REFUSED."""
    schedule(cell, 1, in_ms=-10_000)

    with nothing_written(cell), pytest.raises(NotLeader):
        promote(cell, store=cell.impostor())


def test_a_call_is_bounded(cell: Cell) -> None:
    """A thousand jobs due at the same second come in several calls, the earliest first."""
    due = schedule(cell, 30, in_ms=-10_000)

    assert [promote(cell, 12) for _ in range(4)] == [12, 12, 6, 0]
    assert [entry.job for entry in cell.waiting()] == due


def test_what_is_late_is_buried(cell: Cell) -> None:
    """A rejected job that waited for its next try until its deadline: it never sees its lane again, and the others do."""
    worker = cell.worker()
    jobs_until(cell, 1, FUTURE_MS, 0)
    worker.giveback([GiveBack(lease, "rejects") for lease in cell.give(worker, 3)[::-1]], delay_ms=60_000)
    late, in_time, untimed = sorted(cell.text.zrange(cell.keys.scheduled, 0, -1))
    for entry in (in_time, untimed):
        cell.text.zadd(cell.keys.scheduled, {entry: 0})

    applied = cell.store.apply([], tuple, promote=500)

    assert (applied.promoted, applied.late) == (3, 1)
    assert {entry.job for entry in cell.waiting()} == {in_time[:16], untimed[:16]}
    assert cell.text.zrange(cell.keys.dead_letters, 0, -1) == [late[:16]]
    assert cell.text.smembers(cell.keys.unsettled) == {late[:16]}
    assert json.loads(cell.text.hget(cell.keys.dead_reasons, late[:16]))["reason"] == "deadline_passed"


def test_counts_survive(cell: Cell) -> None:
    """A rejected job comes back with what is known of it."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    worker.giveback([GiveBack(lease, "rejects")], delay_ms=60_000)
    (entry,) = cell.text.zrange(cell.keys.scheduled, 0, -1)
    cell.text.zadd(cell.keys.scheduled, {entry: 0})
    promote(cell)

    assert [entry.rejects for entry in cell.waiting()] == [1]


def test_a_lane_of_another_type_is_moved_aside(cell: Cell) -> None:
    """Or nothing that is due would be moved any more."""
    schedule(cell, 1, in_ms=-1_000)
    cell.text.set(cell.keys.lane(LANE), "not a list")

    assert cell.store.apply([], tuple, promote=10).promoted == 1
    assert len(cell.waiting()) == 1
    assert cell.text.get(cell.keys.lane(LANE) + ":aside") == "not a list"


@pytest.mark.parametrize("score", ["-inf", "1", "inf"])
def test_what_is_no_job_is_moved_aside(cell: Cell, score: str) -> None:
    """Once it is due: a member that somebody else put there stops neither those behind it nor the look."""
    foreign = (b"x", b"\xff" * 80, b"7" * 59)
    due = schedule(cell, 2, in_ms=-10_000)
    cell.client.zadd(cell.keys.scheduled, dict.fromkeys(foreign, float(score)))

    next_due_ms = cell.store.look([], limit=1, message_bytes_max=1).next_due_ms
    applied = cell.store.apply([], tuple, promote=500)

    assert [entry.job for entry in cell.waiting()] == due
    if score == "inf":
        assert cell.store.look([], limit=1, message_bytes_max=1).next_due_ms is None
        assert applied.aside == []
    else:
        assert next_due_ms in (0, 1)
        assert cell.client.zcard(cell.keys.scheduled) == 0
        assert set(cell.client.zrange(cell.keys.scheduled + ":aside", 0, -1)) == set(foreign)
        assert applied.aside == [cell.keys.scheduled.encode()]
