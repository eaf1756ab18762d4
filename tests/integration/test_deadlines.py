"""A job that was not begun by its deadline is never begun, and whoever waits for it is told, wherever it was."""

from __future__ import annotations

from typing import Any

import pytest
from celery.result import AsyncResult

from dispatcher.core.facts.header import job_headers
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import JobDead
from dispatcher.events import JobsLate
from tests.eventually import eventually
from tests.integration.stage import Stage, Stub


def soon(**more: Any) -> dict[str, Any]:
    """Headers of a job that has to begin at once."""
    return job_headers(deadline_s=0.05, **more)


def until(entry: bytes, deadline_ms: int) -> bytes:
    """The frame or entry with another deadline."""
    return entry[:46] + b"%013d" % deadline_ms + entry[59:]


def make_leases_late(stage: Stage, worker: Stub) -> None:
    """All that the worker owes had to begin long ago."""
    key = stage.keys.leases(worker.epoch)
    stage.client.hset(key, mapping={id_: until(entry, 1) for id_, entry in stage.client.hgetall(key).items()})


def all_late(stage: Stage, *jobs: str) -> None:
    """Step until they are dead letters for being late; no others are."""

    def buried() -> bool:
        stage.step()
        return stage.reasons() == dict.fromkeys(jobs, "deadline_passed")

    eventually(buried, message=stage.reasons)


def test_a_job_that_nobody_could_begin(stage: Stage) -> None:
    """Its waiter gets an error that says why; the log is told; nothing is left behind it."""
    (job,) = stage.send(headers=soon())
    stage.step()
    all_late(stage, job)
    assert stage.settler.step() == 1

    with pytest.raises(JobDead, match="deadline_passed"):
        AsyncResult(job, app=stage.app).get(timeout=10)
    assert JobsLate(1) in stage.events
    assert stage.waiting() == []
    assert stage.worker().run_all() == []


def test_only_the_late_of_a_lane_go(stage: Stage) -> None:
    """One behind the head of a lane whose head is in time; a job without a deadline, and one in a paused queue, which is late as well."""
    (fine,) = stage.send(headers=job_headers(deadline_s=80))
    (hidden,) = stage.send(headers=job_headers(deadline_s=70))
    (untimed,) = stage.send()
    (paused,) = stage.send(headers=soon(tenant="other"))
    stage.step()
    stage.text.sadd(stage.keys.paused, "*")
    lane = next(one for one in stage.text.smembers(stage.keys.lanes) if "deadline=17" in one)
    _head, behind = stage.client.lrange(stage.keys.lane(lane), 0, -1)
    stage.client.lset(stage.keys.lane(lane), 1, until(behind, 1))
    all_late(stage, hidden, paused)
    stage.text.delete(stage.keys.paused)
    worker = stage.worker(concurrency=4)
    stage.steps()

    assert sorted(worker.run_all()) == sorted([fine, untimed])


def test_a_job_that_its_worker_has_not_begun(stage: Stage) -> None:
    """Leased behind a long one: the dispatcher buries it, without the worker's help. The running one, late as well, may end."""
    worker = stage.worker()
    running, waiting = stage.send(2, headers=job_headers(deadline_s=60))
    stage.step()
    taken = worker.take()
    assert taken is not None
    assert len(worker.queued()) == 1
    make_leases_late(stage, worker)
    all_late(stage, waiting)

    assert worker.queued() == []
    assert set(worker.leases()) == {taken.lease_id}
    worker.end(taken, "in the end")
    assert AsyncResult(running, app=stage.app).get(timeout=10) == "in the end"


def test_a_worker_that_pops_a_late_job(stage: Stage) -> None:
    """It is refused, and gives it back to be buried, with no leader about."""
    worker = stage.worker()
    (job,) = stage.send(headers=soon())
    stage.step()
    lease = worker.pop()
    assert lease is not None

    make_leases_late(stage, worker)
    assert worker.store.finds_late(lease)
    worker.store.giveback([GiveBack.late(lease)])

    assert stage.reasons() == {job: "deadline_passed"}
    assert worker.leases() == {}


def test_a_job_that_waits_for_its_next_try(stage: Stage) -> None:
    """Rejected with a wait of an hour: it is buried at its deadline."""
    worker = stage.worker()
    (job,) = stage.send(headers=job_headers(deadline_s=60))
    stage.step()
    taken = worker.take()
    assert taken is not None
    make_leases_late(stage, worker)
    worker.store.giveback([GiveBack(taken.lease_id, "rejects")], delay_ms=3_600_000)

    all_late(stage, job)


def test_a_job_that_comes_back_from_a_dead_worker(stage: Stage) -> None:
    """It had begun in time, and its next run would begin too late."""
    worker = stage.worker()
    (job,) = stage.send(headers=job_headers(deadline_s=60))
    stage.step()
    assert worker.take() is not None
    make_leases_late(stage, worker)
    worker.store.goodbye()

    all_late(stage, job)


def test_the_time_begins_when_the_job_is_due(stage: Stage) -> None:
    """With a countdown of an hour a job has until a minute after; nobody buries it before."""
    stage.send(countdown=3600, headers=job_headers(deadline_s=60))
    stage.steps()
    ((entry, due_ms),) = stage.text.zrange(stage.keys.scheduled, 0, -1, withscores=True)

    assert int(entry[46:59]) == due_ms + 60_000
    assert stage.reasons() == {}


def test_a_new_leader_looks_at_leases_too(stage: Stage) -> None:
    """It does not know what the one before it gave to whom."""
    worker = stage.worker()
    stage.send(headers=soon())
    stage.step()
    assert len(worker.leases()) == 1
    stage.client.delete(stage.keys.leader)
    stage.dispatcher = stage.make_dispatcher("leader-2")

    def buried() -> bool:
        stage.step()
        return list(stage.reasons().values()) == ["deadline_passed"]

    eventually(buried)
