"""The dispatcher step by step, from a producer's Celery to a worker's ack, on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from celery.result import AsyncResult

from dispatcher.clock import SystemClock
from dispatcher.core.admission.rules import Admission, Admitted
from dispatcher.errors import EpochEnded
from dispatcher.leader.dispatcher import StepReport
from dispatcher.leader.wake import Waker
from tests.eventually import eventually
from tests.integration.stage import Stage, in_turn, task_id
from tests.life import Taken
from tests.messages import TASK, message


@pytest.fixture
def narrow(redis_url: str) -> Iterator[Stage]:
    """Windows as wide as the concurrency: jobs come one at a time."""
    made = Stage(redis_url, window_extra=0, window_hide_ms=0.0)
    yield made
    made.close()


def test_the_whole_life_of_a_job(stage: Stage) -> None:
    """Sent by plain Celery, admitted and assigned in one step, taken as it was sent, ended; and then nothing is left of it."""
    worker = stage.worker()
    (sent,) = stage.send(args=(1, "ü"), kwargs={"k": [None]})
    (raw,) = stage.client.lrange("dispatch", 0, -1)

    report = stage.step()
    assert (report.admitted, report.assigned) == (1, 1)
    taken = worker.take()
    assert taken is not None
    assert taken.message == raw
    worker.end(taken, "result")

    assert AsyncResult(sent, app=stage.app).get(timeout=10) == "result"
    assert stage.is_empty()
    assert stage.kinds() == ["LeadGained", "WorkerRegistered"]


def test_jobs_wait_while_nobody_works(stage: Stage) -> None:
    """They are admitted, held with the reason, and given to the first worker that comes, in order."""
    sent = stage.send(3)
    report = stage.step()
    assert (report.admitted, report.assigned) == (3, 0)
    assert report.plan is not None
    assert [hold.reason for hold in report.plan.holds] == ["unroutable"]

    assert in_turn(stage.worker(), stage) == sent


def test_a_worker_holds_no_more_than_its_window(stage: Stage) -> None:
    """Late binding: 50 jobs, a window of one slot and two more; what was started makes no room, what was ended does."""
    worker = stage.worker()
    stage.send(50)
    stage.steps()
    assert len(worker.queued()) == 3

    taken = worker.take()
    assert taken is not None
    stage.steps()
    assert len(worker.leases()) == 3
    worker.end(taken)
    stage.steps()
    assert len(worker.leases()) == 3
    assert len(stage.waiting()) == 46


def test_priorities_are_served_in_celerys_order(narrow: Stage) -> None:
    """Its four Redis steps: 0 to 2 first, 9 last; inside a step who came first."""
    sent = {priority: narrow.send(2, priority=priority) for priority in (9, 8, 3, 6, 0, 5)}
    worker = narrow.worker()

    assert in_turn(worker, narrow) == [*sent[0], *sent[3], *sent[5], *sent[8], *sent[6], *sent[9]]


def test_a_late_urgent_job_overtakes(narrow: Stage) -> None:
    """What waits in a lane can still be overtaken: only a window is ahead of it."""
    worker = narrow.worker()
    bulk = narrow.send(5, priority=9)
    narrow.steps()
    (urgent,) = narrow.send(priority=0)

    assert in_turn(worker, narrow) == [bulk[0], urgent, *bulk[1:]]


def test_a_job_that_is_not_due_waits_apart(stage: Stage) -> None:
    """Not in a lane, not in a worker's memory; the report says when to look again; others go by."""
    worker = stage.worker()
    stage.send(countdown=3600)
    (now,) = stage.send()
    stage.steps()

    assert worker.run_all() == [now]
    assert stage.text.zcard(stage.keys.scheduled) == 1
    assert stage.waiting() == []
    assert stage.step().wait_s == stage.settings.idle_wait_s


def test_a_job_goes_when_redis_says_it_is_due(stage: Stage) -> None:
    """The dispatcher's own clock, which stands still here, has no part in it."""
    worker = stage.worker()
    (sent,) = stage.send(countdown=0.3)
    stage.step()
    if stage.text.zcard(stage.keys.scheduled):
        assert stage.step().wait_s <= 0.3
    ran: list[str] = []

    def has_run() -> bool:
        stage.step()
        ran.extend(worker.run_all())
        return bool(ran)

    eventually(has_run)
    assert ran == [sent]
    assert stage.is_empty()


def test_woken_by_a_job_it_rests_as_soon_as_the_job_is_on_its_way(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to do of that step waits, so that Redis and the worker need not."""
    worker = stage.worker(concurrency=100)
    stage.dispatcher.resign()
    stage.clock = SystemClock()
    leader = stage.make_dispatcher("leader-2", waker=Waker(stage.client, stage.keys.wake))
    step, told, rests, sent = leader.step, list[StepReport | None](), list[int](), list[str]()

    def watched() -> StepReport:
        told.append(None)
        told[-1] = report = step()
        return report

    def sleep(_: float) -> None:
        if told[-1] is None:  # the step is not over
            eventually(lambda: len(worker.queued()) == len(sent))
            rests.append(len(sent))

    def is_assigned() -> bool:
        return len(worker.queued()) == len(sent) and told[-1] is not None

    monkeypatch.setattr(leader, "step", watched)
    monkeypatch.setattr(stage.clock, "sleep", sleep)
    stop = threading.Event()
    thread = threading.Thread(target=leader.run, args=(stop,), daemon=True)
    thread.start()
    try:
        while not rests and len(sent) < 50:  # one that comes while it is awake does not wake it
            eventually(lambda: stage.client.info("clients")["blocked_clients"] > 1, message="it did not go to sleep")
            sent += stage.send()
            eventually(is_assigned)
        assert rests == [len(sent)]
    finally:
        stop.set()
        thread.join(20)


def test_9000_jobs_and_ten_workers(stage: Stage) -> None:
    """A backlog larger than any call: all of it runs, once each."""
    workers = [stage.worker(f"w{i}", concurrency=60) for i in range(10)]
    raws = [message(f"id-{i}") for i in range(9_000)]
    for at in range(0, 9_000, 1_000):
        stage.client.lpush("dispatch", *raws[at : at + 1_000])
    ran: list[str] = []
    while stage.text.exists("dispatch", stage.keys.messages):
        assert stage.step().admitted <= stage.settings.batch_size
        for worker in workers:
            ids = worker.queued()
            stage.client.delete(stage.keys.worker_queue(worker.epoch))
            takes = [worker.store.take(id_) for id_ in ids]
            ran += [task_id(taken) for taken in takes if taken]
            if ids:
                worker.store.ack(ids)

    assert sorted(ran) == sorted(f"id-{i}" for i in range(9_000))


@pytest.mark.parametrize("countdown", [None, 3600])
def test_a_retry_and_the_job_that_sent_it_may_both_be_there(stage: Stage, countdown: int | None) -> None:
    """A worker dies between its job's retry and its ack: two messages of one task id. Each runs once more, under a lease of its own that
    the end of the other does not touch, and then nothing is left (scenario 69).
    """
    worker = stage.worker()
    for name in ("w2", "w3"):
        stage.worker(name, ingress=("elsewhere",))
    (sent,) = stage.send()
    stage.steps()
    begun = worker.take()
    assert begun is not None
    stage.app.send_task(TASK, task_id=sent, retries=1, countdown=countdown)
    stage.pass_ms(6_000, silent=(worker,))
    assert worker.leases() == {}
    scheduled = cast("list[str]", stage.text.zrange(stage.keys.scheduled, 0, -1))
    assert (len(scheduled), len(stage.waiting())) == ((0, 2) if countdown is None else (1, 1))
    if scheduled:
        stage.text.zadd(stage.keys.scheduled, dict.fromkeys(scheduled, 1))

    successor = stage.worker("w4", concurrency=2)
    stage.steps()
    first, second = successor.take(), successor.take()
    assert first is not None
    assert second is not None
    assert [task_id(first), task_id(second)] == [sent, sent]
    reaps = {retries_of(taken): taken.entry.reaps for taken in (first, second)}
    assert reaps == {0: 1, 1: 0}

    successor.end(first)
    with pytest.raises(EpochEnded):
        worker.store.ack([begun.lease_id])
    stage.steps()
    assert set(successor.leases()) == {second.lease_id}
    successor.end(second)
    stage.steps()
    assert successor.queued() == []
    assert stage.is_empty()
    assert AsyncResult(sent, app=stage.app).state == "SUCCESS"


def retries_of(taken: Taken) -> int:
    """How often Celery's ``retry()`` had sent the job before this message."""
    return int(json.loads(taken.message)["headers"]["retries"])


def test_messages_that_take_long_to_read_cost_nobody_the_lead(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed ones, say: a step admits what can be read in a fourth of ``leader_ttl_s``, the next goes on."""
    read = Admission._read

    def slow(admission: Admission, *args: Any) -> Admitted:
        stage.clock.now_ms += round(100 * stage.settings.leader_ttl_s)
        return read(admission, *args)

    monkeypatch.setattr(Admission, "_read", slow)
    sent = stage.send(10)
    reports = [stage.step() for _ in range(4)]
    assert [(one.admitted, one.more) for one in reports] == [(3, True), (3, True), (3, True), (1, False)]
    worker = stage.worker(concurrency=10)
    stage.steps()
    assert worker.run_all() == sent
