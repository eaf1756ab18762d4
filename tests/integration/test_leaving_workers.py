"""Workers that drain, fall silent, say goodbye or do not look at their queue, as the dispatcher sees them."""

from __future__ import annotations

import pytest
from celery.result import AsyncResult

from dispatcher.errors import JobDead
from dispatcher.events import WorkerReaped
from dispatcher.store.worker.worker_store import BeatStatus
from tests.integration.stage import Stage
from tests.messages import TASK


def test_a_draining_worker_keeps_what_it_runs_and_gives_back_the_rest(stage: Stage) -> None:
    """Recalled at once, in order, to whoever has room; the running one it ends itself."""
    worker = stage.worker()
    sent = stage.send(3)
    stage.steps()
    running = worker.take()
    assert running is not None
    other = stage.worker("w2", concurrency=4)
    worker.store.drain("exit")
    stage.steps()

    assert set(worker.leases()) == {running.lease_id}
    assert [entry.recalls for entry in other.leases().values()] == [1, 1]
    assert other.run_all() == sent[1:]
    worker.end(running)
    assert stage.is_empty()
    assert stage.kinds().count("WorkerDraining") == 1


def test_a_silent_worker_is_reaped_after_its_ttl(stage: Stage) -> None:
    """All it had goes to the others: what ran counts as an attempt, what did not does not; before the TTL nothing is touched."""
    worker, others = stage.worker(), [stage.worker(f"w{i}", ingress=("elsewhere",)) for i in (2, 3)]
    sent = stage.send(3)
    stage.steps()
    running = worker.take()
    assert running is not None

    stage.pass_ms(4_500, silent=(worker,))
    assert len(worker.leases()) == 3
    stage.pass_ms(1_500, silent=(worker,))

    assert worker.leases() == {}
    assert [(entry.reaps, entry.crashes + entry.rejects) for entry in stage.waiting()] == [(1, 0), (0, 0), (0, 0)]
    assert worker.beat().status is BeatStatus.DEAD
    reaped = [event for event in stage.events if isinstance(event, WorkerReaped)]
    assert [(one.name, one.reason, one.returned, one.buried) for one in reaped] == [("w1@h", "silent", 3, 0)]
    successor = stage.worker("w4", concurrency=4)
    stage.steps()
    assert successor.run_all() == sent
    assert all(other.beat().status is BeatStatus.OK for other in others)


def test_an_outage_of_redis_reaps_nobody(stage: Stage) -> None:
    """Nobody could be heard for a minute: at the first look after it every beat is old, and nobody is dead (scenario 30)."""
    workers = [stage.worker(f"w{i}") for i in range(4)]
    stage.send(4)
    stage.pass_ms(2_000)
    for worker in workers:
        stage.text.pexpire(stage.keys.alive(worker.epoch), 3_600_000)
    stage.clock.now_ms += 60_000
    stage.steps()
    stage.pass_ms(20_000)

    assert all(worker.beat().status is BeatStatus.OK for worker in workers)
    assert "WorkerSilent" not in stage.kinds()


def test_a_fleet_that_falls_silent_is_given_one_more_ttl(stage: Stage) -> None:
    """And it is said. Then they are dead all the same."""
    workers = [stage.worker(f"w{i}") for i in range(3)]
    stage.pass_ms(2_000)
    stage.pass_ms(7_000, silent=tuple(workers))
    assert "FleetSilent" in stage.kinds()
    assert "WorkerSilent" not in stage.kinds()
    stage.pass_ms(4_000, silent=tuple(workers))

    assert stage.kinds().count("WorkerSilent") == 3
    assert stage.kinds().count("FleetSilent") == 1


def test_a_takeover_reaps_nobody_for_what_it_did_not_hear(stage: Stage) -> None:
    """A new leader counts silence from zero."""
    worker = stage.worker()
    stage.pass_ms(1_000)
    stage.pass_ms(4_000, silent=(worker,))
    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.pass_ms(4_000, silent=(worker,))
    assert worker.beat().status is BeatStatus.OK
    stage.pass_ms(7_000, silent=(worker,))
    assert worker.beat().status is BeatStatus.DEAD


def test_after_a_goodbye_all_is_back_at_once(stage: Stage) -> None:
    """In order, only what had begun counted as an attempt, nothing as a death, and the worker is forgotten."""
    worker = stage.worker()
    sent = stage.send(3)
    stage.steps()
    assert worker.take() is not None
    worker.store.goodbye()
    stage.step()

    assert [(entry.rejects, entry.deaths) for entry in stage.waiting()] == [(1, 0), (0, 0), (0, 0)]
    assert stage.text.smembers(stage.keys.workers) == set()
    successor = stage.worker("w2", concurrency=4)
    stage.steps()
    assert successor.run_all() == sent


@pytest.mark.parametrize("end", ["silent", "goodbye"])
def test_a_job_that_must_not_be_repeated_is_buried_when_its_worker_ends(stage: Stage, end: str) -> None:
    """Only if it was started; its waiter is told. What was not started goes back, whatever its task says."""
    worker = stage.worker(at_most_once=(TASK,))
    stage.worker("w2", ingress=("elsewhere",))
    started, waiting = stage.send(2)
    stage.steps()
    assert worker.take() is not None
    if end == "goodbye":
        worker.store.goodbye()
        stage.steps()
    else:
        stage.pass_ms(7_000, silent=(worker,))

    assert stage.reasons() == {started: "at_most_once"}
    reaped = [event for event in stage.events if isinstance(event, WorkerReaped)]
    assert [(one.returned, one.buried) for one in reaped] == [(1, 1)]
    stage.settler.step()
    with pytest.raises(JobDead, match="acks_late=False"):
        AsyncResult(started, app=stage.app).get(timeout=10)
    successor = stage.worker("w3")
    stage.steps()
    assert successor.run_all() == [waiting]


def test_a_worker_that_does_not_look_at_its_queue_gets_nothing(stage: Stage) -> None:
    """It beats, and holds jobs it does not start: they are recalled and go to another; when it looks again it is fed again."""
    worker = stage.worker()
    sent = stage.send(2)
    stage.steps()
    assert len(worker.queued()) == 2
    worker.beat(consume_age_ms=3_001)
    other = stage.worker("w2")
    stage.steps()

    assert worker.leases() == {}
    assert other.run_all() == sent
    stage.send(4)
    stage.steps()
    assert worker.leases() == {}
    worker.beat(consume_age_ms=0)
    stage.steps()
    assert len(worker.leases()) == 1


def test_a_worker_whose_registration_is_lost_is_given_nothing(stage: Stage) -> None:
    """Its hash is gone, its life is not: nothing is known of it, so nothing fits it; the others are served."""
    worker = stage.worker()
    stage.text.delete(stage.keys.worker(worker.epoch))
    sent = stage.send(2)
    other = stage.worker("w2")
    stage.steps()

    assert worker.leases() == {}
    assert other.run_all() == sent
