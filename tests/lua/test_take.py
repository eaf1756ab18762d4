"""take: the one thing that starts a job."""

from __future__ import annotations

import pytest
import redis

from dispatcher.core.returns.ending import GiveBack
from tests.life import Life
from tests.lua.cell import LANE, Cell, nothing_written
from tests.lua.test_bury_late import FUTURE_MS, jobs_until
from tests.messages import message


def test_the_message_comes_as_it_was_sent(cell: Cell) -> None:
    """With what is kept of the job, and the lease is marked as taken."""
    worker, raw = cell.worker(), message("id", args=("ü",))
    cell.push(raw)
    cell.admit()
    (lease,) = cell.give(worker, 1)

    taken = worker.take(lease)

    assert taken is not None
    assert (taken.lease_id, taken.message, taken.entry.lane) == (lease, raw, LANE)
    assert (taken.entry.crashes, taken.entry.rejects, taken.entry.reaps) == (0, 0, 0)
    assert cell.taken(worker) == {lease}
    assert set(cell.leases(worker)) == {lease}


def test_a_pop_that_arrives_twice_starts_nothing(cell: Cell) -> None:
    """REFUSED: Redis lost the pop with its last writes and gave the id again, to the same live worker (scenario 32)."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    assert worker.take(lease)

    with nothing_written(cell):
        assert worker.take(lease) is None


def test_a_thawed_worker_starts_nothing(cell: Cell) -> None:
    """REFUSED: it was frozen with the id in its socket, and was declared dead meanwhile (scenario 6)."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    worker.goodbye()

    with nothing_written(cell):
        assert worker.take(lease) is None


def test_what_was_recalled_or_acked_starts_nothing(cell: Cell) -> None:
    """REFUSED: no lease, no start."""
    worker = cell.worker()
    recalled, acked = cell.leased(worker, 2)
    cell.client.hdel(cell.keys.leases(worker.epoch), recalled)
    worker.take(acked)
    worker.ack([acked])

    with nothing_written(cell):
        assert worker.take(recalled) is None
        assert worker.take(acked) is None
        assert worker.take("") is None
        assert worker.take("what is this") is None


def test_a_workers_lease_is_no_other_workers(cell: Cell) -> None:
    """REFUSED: a new life of the same node name is another worker too (scenario 7)."""
    worker, other = cell.worker(name="gpu1@h"), cell.worker("bbbbbbbbbbbb", name="gpu1@h")
    (lease,) = cell.leased(worker, 1)

    with nothing_written(cell):
        assert other.take(lease) is None


def test_a_lease_whose_message_is_gone_starts_nothing(cell: Cell) -> None:
    """REFUSED: there is nothing to run."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    cell.client.delete(cell.keys.messages)

    with nothing_written(cell):
        assert worker.take(lease) is None


def test_a_late_job_is_not_begun(cell: Cell) -> None:
    """REFUSED, and told apart from what is not there: it must be buried. What is in time begins."""
    worker = cell.worker()
    _, fine = jobs_until(cell, 1, FUTURE_MS)
    too_late, in_time = cell.give(worker, 2)

    with nothing_written(cell):
        assert worker.finds_late(too_late)
        assert not worker.finds_late("what is this")
    taken = worker.take(in_time)
    assert taken is not None
    assert (taken.entry.job, taken.entry.deadline_ms) == (fine, FUTURE_MS)


def test_a_job_that_became_late_while_it_ran_is_no_late_job(cell: Cell) -> None:
    """REFUSED like any second take: it has begun, and nobody may bury it."""
    worker = cell.worker()
    jobs_until(cell, 1)
    (lease,) = cell.give(worker, 1)
    cell.text.hset(cell.keys.taken(worker.epoch), lease, "1")

    with nothing_written(cell):
        assert worker.take(lease) is None
        assert worker.giveback([GiveBack.late(lease)]) == 0


def test_when_it_was_taken_is_what_the_worker_says(cell: Cell) -> None:
    """Redis' time in ms, as its worker reckons it."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    worker.take(lease, at_ms=1_700_000_000_000)

    assert cell.text.hget(cell.keys.taken(worker.epoch), lease) == "1700000000000"


# -- several in one call


def take(cell: Cell, worker: Life, others: int) -> tuple[list[str], list[str]]:
    """Pop one id as a worker does, start its job and those behind it: lease ids of the started, and of the late."""
    started, overdue = worker.pipe.take(cell.pop(worker).encode(), 1, others)
    leases = cell.leases(worker)
    assert all(leases[job.lease_id].job.encode() == job.entry[:16] for job in started)
    assert all(cell.client.hget(cell.keys.messages, job.entry[:16]) == job.message for job in started)
    return [job.lease_id for job in started], overdue


def test_those_that_stand_next_are_started_too(cell: Cell) -> None:
    """In their order, as many as were asked for; the rest stay in the queue."""
    worker = cell.worker()
    ids = cell.leased(worker, 5)

    assert take(cell, worker, 2) == (ids[:3], [])
    assert (cell.queued(worker), cell.taken(worker)) == (ids[3:], set(ids[:3]))
    assert take(cell, worker, 9) == (ids[3:], [])
    assert cell.queued(worker) == []


def test_of_those_that_stand_next_only_what_may_begin_is_started(cell: Cell) -> None:
    """REFUSED: the late one, told apart; the recalled one, the one whose message is gone, and an id that is there twice, silently."""
    worker = cell.worker()
    first, recalled, gone = cell.leased(worker, 3)
    jobs_until(cell, 1)
    (overdue,) = cell.give(worker, 1)
    (last,) = cell.leased(worker, 1)
    cell.text.lpush(cell.keys.worker_queue(worker.epoch), last, first)
    cell.client.hdel(cell.keys.messages, cell.leases(worker)[gone].job)
    cell.client.hdel(cell.keys.leases(worker.epoch), recalled)

    assert take(cell, worker, 20) == ([first, last], [overdue])
    assert (cell.queued(worker), cell.taken(worker)) == ([], {first, last})


def test_large_messages_come_one_call_after_the_other(cell: Cell) -> None:
    """A megabyte is enough for one; a single one may be as large as it likes."""
    worker = cell.worker()
    for size in (2_000_000, 300_000, 300_000, 300_000):
        cell.push(message(f"id{size}", args=("x" * size,)))
    cell.admit()
    ids = cell.give(worker, 4)

    assert [take(cell, worker, 3)[0] for _ in range(3)] == [ids[:1], ids[1:3], ids[3:]]


def test_a_dead_worker_pops_nothing(cell: Cell) -> None:
    """REFUSED: what stands behind belongs to others by now."""
    worker = cell.worker()
    cell.leased(worker, 3)
    worker.goodbye()
    waiting = cell.queued(worker)

    assert take(cell, worker, 5) == ([], [])
    assert cell.queued(worker) == waiting[1:]
    assert cell.taken(worker) == set()


def test_a_redis_that_is_full_keeps_what_stands_behind(cell: Cell) -> None:
    """The write that is refused comes before the pops: only the one that was popped already has to be given back."""
    worker = cell.worker()
    ids = cell.leased(worker, 3)
    cell.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            take(cell, worker, 5)
    finally:
        cell.client.config_set("maxmemory", 0)
    assert (cell.queued(worker), cell.taken(worker)) == (ids[1:], set())
