"""assign: waiting jobs become leases of workers."""

from __future__ import annotations

import pytest
import redis

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import NotLeader
from dispatcher.store.frame import FRAME_BYTES
from tests.life import Life
from tests.lua.cell import LANE, Cell, nothing_written
from tests.messages import TASK, message

OTHER = lane_name(Lane("dispatch", "other.task", "default", 0, 10))


def to(worker: Life | str, count: int, *, window: int = 100, lane: str = LANE) -> Assign:
    return Assign(lane, worker if isinstance(worker, str) else worker.epoch, count, window, 0.0)


def test_jobs_become_leases_in_the_order_of_their_lane(cell: Cell) -> None:
    """The oldest is next in the worker's queue; a lease holds the job's frame and its lane; the lane is shorter by them."""
    worker, jobs = cell.worker(), cell.jobs(5)

    assert cell.assign(to(worker, 3)) == [3]

    leases = cell.leases(worker)
    assert [leases[id_].job for id_ in cell.queued(worker)] == jobs[:3]
    assert {entry.lane for entry in leases.values()} == {LANE}
    assert [entry.job for entry in cell.waiting()] == jobs[3:]
    assert all(id_.startswith(f"{worker.epoch}.") and len(id_) == 29 for id_ in leases)


def test_the_reply_holds_the_frames_of_what_was_assigned(cell: Cell) -> None:
    """Per lane in one string, the one given first at the end: whoever writes down what was decided needs to look at no lease."""
    first, second = cell.worker(), cell.worker("bbbbbbbbbbbb")
    jobs = cell.jobs(4)

    applied = cell.store.apply([], lambda: (to(first, 2), to(second, 1)), promote=0)

    (frames,) = applied.frames
    assert [frames[at : at + 16].decode() for at in range(0, len(frames), FRAME_BYTES)] == jobs[:3]
    assert cell.store.apply([], lambda: (to("cccccccccccc", 1),), promote=0).frames == [b""]


def test_an_emptied_lane_leaves_the_set(cell: Cell) -> None:
    """What a tick costs follows the lanes that have work."""
    worker = cell.worker()
    cell.jobs(2)
    cell.assign(to(worker, 1))
    assert cell.text.smembers(cell.keys.lanes) == {LANE}
    cell.assign(to(worker, 1))
    assert cell.text.smembers(cell.keys.lanes) == set()


def test_not_the_leader(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    cell.jobs(1)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.assign(to(worker, 1), store=cell.impostor())


def test_the_old_leader_of_two(cell: Cell) -> None:
    """REFUSED: equality with a random id, so a lock that went back with Redis' last writes cannot make two of them equal."""
    worker, old = cell.worker(), cell.store
    cell.jobs(1)
    new = cell.leader("leader-2")

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.assign(to(worker, 1), store=old)
    assert cell.assign(to(worker, 1), store=new) == [1]


def test_a_lost_reply_does_not_fill_a_worker_twice(cell: Cell) -> None:
    """Room is computed from Redis: the same call once more gives nothing beyond the window."""
    worker = cell.worker()
    cell.jobs(10)

    assert cell.assign(to(worker, 2, window=3)) == [2]
    assert cell.assign(to(worker, 2, window=3)) == [1]
    assert cell.assign(to(worker, 2, window=3)) == [0]
    assert len(cell.leases(worker)) == 3


def test_a_window_that_shrank_gives_nothing_and_takes_nothing(cell: Cell) -> None:
    """Leases above a new, smaller window stay until they end."""
    worker = cell.worker()
    cell.leased(worker, 5)
    cell.jobs(1)

    assert cell.assign(to(worker, 1, window=2)) == [0]
    assert len(cell.leases(worker)) == 5
    assert len(cell.waiting()) == 1


@pytest.mark.parametrize("state", ["dead", "draining", "kept", "unregistered"])
def test_a_worker_that_changed_since_the_plan_gets_nothing(cell: Cell, state: str) -> None:
    """Its epoch ended, it was told to drain, or it never was: only the sequence may move; the job goes elsewhere in the same call."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    epoch = worker.epoch
    if state == "dead":
        worker.goodbye()
    elif state == "unregistered":
        epoch = "cccccccccccc"
    else:
        worker.drain("exit" if state == "draining" else "keep")
    cell.jobs(2)

    with nothing_written(cell, without=cell.keys.sequence):
        assert cell.assign(to(epoch, 2)) == [0]
    assert cell.assign(to(epoch, 1), to(other, 1)) == [0, 1]
    assert len(cell.waiting()) == 1


def test_a_shorter_lane_than_planned(cell: Cell) -> None:
    """Who is named first is served first; the others get what is left, or nothing."""
    first, second = cell.worker(), cell.worker("bbbbbbbbbbbb")
    cell.jobs(3)

    assert cell.assign(to(first, 2), to(second, 5)) == [2, 1]
    assert cell.assign(to(first, 2), to(second, 5)) == [0, 0]


def test_a_job_that_came_back_to_the_head_goes_first(cell: Cell) -> None:
    """Something was returned to the lane between look and assign: whatever is next is leased as what it is, with its own frame."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    (lease,) = cell.leased(other, 1)
    returned = cell.leases(other)[lease].job
    jobs = cell.jobs(2)
    other.giveback([GiveBack(lease, "recalls")])

    assert cell.assign(to(worker, 2)) == [2]
    assert [cell.leases(worker)[id_].job for id_ in cell.queued(worker)] == [returned, jobs[0]]
    assert [entry.job for entry in cell.waiting()] == jobs[1:]


def test_one_message_pushed_twice_has_two_leases(cell: Cell) -> None:
    """The same delivery tag twice: the ack of one run does not end the lease of the other."""
    worker, twice = cell.worker(), message("same")
    cell.push(twice, twice)
    cell.admit()
    first, second = cell.give(worker, 2)

    assert worker.take(first)
    assert worker.ack([first]) == 1
    assert set(cell.leases(worker)) == {second}
    taken = worker.take(second)
    assert taken is not None
    assert taken.message == twice


def test_many_lanes_and_workers_in_one_call(cell: Cell) -> None:
    """Replies stand in the order of the assignments."""
    first, second = cell.worker(), cell.worker("bbbbbbbbbbbb")
    cell.jobs(4)
    cell.push(*[message(task="other.task") for _ in range(3)])
    cell.admit()

    assert cell.assign(to(first, 1), to(second, 3), to(first, 1, lane=OTHER), to(second, 1, lane=OTHER)) == [1, 3, 1, 1]
    assert len(cell.leases(first)) == 2
    assert len(cell.leases(second)) == 4
    assert [len(cell.waiting(lane)) for lane in (LANE, OTHER)] == [0, 1]


def test_a_window_holds_over_the_lanes_of_a_call(cell: Cell) -> None:
    """What the first lane gave counts for the second."""
    worker = cell.worker()
    cell.jobs(4)
    cell.push(*[message(task="other.task") for _ in range(3)])
    cell.admit()

    assert cell.assign(to(worker, 3, window=4), to(worker, 3, window=4, lane=OTHER)) == [3, 1]


def test_9000_jobs(cell: Cell) -> None:
    """A lane of 9,000 is handed out 500 at a time; each job is in one place after each call, in order in the end."""
    worker, jobs = cell.worker(), cell.jobs(9_000)
    for calls in range(1, 19):
        assert cell.assign(to(worker, 500, window=10_000)) == [500]
        assert len(cell.leases(worker)) == 500 * calls
    assert cell.assign(to(worker, 500, window=10_000)) == [0]

    leases = cell.leases(worker)
    assert [leases[id_].job for id_ in cell.queued(worker)] == jobs
    assert cell.whereabouts() == sorted(jobs)


def test_lease_ids_never_repeat(cell: Cell) -> None:
    """Not when the sequence went back with Redis' last writes, not when it is ahead of the clock."""
    worker = cell.worker()
    cell.client.set(cell.keys.sequence, str(4 * 10**15))
    ahead = cell.leased(worker, 3)
    cell.client.delete(cell.keys.sequence)
    after_loss = cell.leased(worker, 300)

    assert len(set(ahead + after_loss)) == 303


@pytest.mark.parametrize("kind", ["leases", "queue"])
def test_a_key_of_the_wrong_type_neither_loses_nor_doubles_a_job(cell: Cell, kind: str) -> None:
    """The error comes before the first lease is written: every job is in its lane still, and the healthy worker can be given them."""
    healthy, broken = cell.worker(), cell.worker("bbbbbbbbbbbb")
    key = cell.keys.leases(broken.epoch) if kind == "leases" else cell.keys.worker_queue(broken.epoch)
    cell.client.set(key, "wrong")
    jobs = cell.jobs(4)

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cell.assign(to(healthy, 2), to(broken, 2))

    assert cell.whereabouts() == jobs
    assert cell.leases(healthy) == {}
    assert all(healthy.take(id_) is None for id_ in cell.queued(healthy))
    assert cell.assign(to(healthy, 4)) == [4]


def test_a_lane_of_the_wrong_type(cell: Cell) -> None:
    """What was assigned from other lanes before it stands, each job in one place."""
    worker, jobs = cell.worker(), cell.jobs(2)
    cell.client.set(cell.keys.lane(OTHER), "wrong")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cell.assign(to(worker, 1), to(worker, 1, lane=OTHER))
    assert cell.whereabouts() == jobs


def test_the_message_stays_where_it_was(cell: Cell) -> None:
    """A lease is an id and a frame; the message is not copied."""
    worker = cell.worker()
    raw = message("id", task=TASK)
    cell.push(raw)
    cell.admit()
    before = cell.messages()
    cell.give(worker, 1)

    assert cell.messages() == before
