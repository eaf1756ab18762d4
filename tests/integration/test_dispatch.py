"""The dispatcher step by step, from a producer's Celery to a worker's ack, on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import redis
from celery import chord
from celery.exceptions import ChordError
from celery.result import AsyncResult

from dispatcher.clock import SystemClock
from dispatcher.core.admission import Admission
from dispatcher.errors import JobDead
from dispatcher.events import JobsRefused, WorkerReaped
from dispatcher.service.dispatch import Dispatcher
from dispatcher.service.wake import Waker
from dispatcher.store.connection import connect
from dispatcher.store.dispatch_store import DispatchStore
from dispatcher.store.worker_store import ALIVE_TTL_MS, BeatStatus
from dispatcher.wiring import keys_of
from tests.conftest import MakeRedis
from tests.integration.stage import Stage, Stub, make_app, task_id
from tests.messages import TASK, envelope, message
from tests.support import eventually


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    made = Stage(redis_url)
    yield made
    made.close()


@pytest.fixture
def narrow(redis_url: str) -> Iterator[Stage]:
    """Windows as wide as the concurrency: jobs come one at a time."""
    made = Stage(redis_url, window_extra=0, window_hide_ms=0.0)
    yield made
    made.close()


def in_turn(stub: Stub, stage: Stage) -> list[str]:
    """Task ids in the order in which a worker of one slot is given them."""
    ran: list[str] = []
    while True:
        stage.step()
        if not (now := stub.run_all()):
            return ran
        ran += now


# -- the life of a job


def test_the_whole_life_of_a_job(stage: Stage) -> None:
    """Sent by plain Celery, admitted and assigned in one step, taken as it was sent, ended; and then nothing is left of it."""
    worker = stage.worker()
    (sent,) = stage.send(args=(1, "ü"), kwargs={"k": [None]})
    (raw,) = stage.client.lrange("dispatch", 0, -1)

    report = stage.step()
    assert (report.admitted, report.assigned) == (1, 1)
    taken = worker.take()
    assert taken is not None
    assert taken.message.encode() == raw
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


# -- queues


def test_a_queue_that_a_worker_names_is_watched(stage: Stage) -> None:
    """Its jobs go to the workers that named it and to no other, whatever name it has."""
    worker = stage.worker("w1")
    gpu = stage.worker("w2", ingress=("aaa gpu/1",))
    (plain,) = stage.send()
    (special,) = stage.send(queue="aaa gpu/1")
    stage.steps()

    assert gpu.run_all() == [special]
    assert worker.run_all() == [plain]


def test_a_worker_may_name_several_queues(stage: Stage) -> None:
    """All queues that it was told to consume."""
    worker = stage.worker(ingress=("dispatch", "celery"), concurrency=4)
    sent = {*stage.send(), *stage.send(queue="celery")}
    stage.steps()

    assert set(worker.run_all()) == sent


def test_queues_named_before_this_leaders_time_are_watched(stage: Stage) -> None:
    """Jobs of a queue whose workers are gone are admitted, and wait for the next one."""
    stage.worker("gone", ingress=("gpu",)).store.goodbye()
    stage.steps()
    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    sent = stage.send(queue="gpu")
    stage.steps()
    assert len(stage.waiting()) == 1

    worker = stage.worker("new", ingress=("gpu",))
    stage.steps()
    assert worker.run_all() == sent


def test_a_paused_queue_stays_where_it_is(stage: Stage) -> None:
    """Its messages are not admitted, what waits in its lanes is not assigned; other queues go on; resumed, all of it runs in order."""
    waiting = stage.send(2)
    stage.steps()
    stage.text.sadd(stage.keys.paused, "dispatch")
    behind = stage.send(2)
    worker = stage.worker(ingress=("dispatch", "gpu"), concurrency=8)
    other = stage.send(queue="gpu")
    stage.steps()

    assert worker.run_all() == other
    assert stage.text.llen("dispatch") == 2
    assert len(stage.waiting()) == 2
    stage.text.delete(stage.keys.paused)
    stage.steps()
    assert worker.run_all() == waiting + behind


def test_everything_can_be_paused(stage: Stage) -> None:
    """With a star."""
    worker = stage.worker(ingress=("dispatch", "gpu"))
    stage.text.sadd(stage.keys.paused, "*")
    stage.send()
    stage.send(queue="gpu")
    stage.steps()

    assert worker.run_all() == []
    assert stage.text.llen("dispatch") == stage.text.llen("gpu") == 1


def test_the_backlog_of_a_paused_queue_hides_no_other(stage: Stage) -> None:
    """A look reads a bounded number of messages; those that may not be admitted must not use it up."""
    worker = stage.worker(ingress=("dispatch", "gpu"))
    stage.text.sadd(stage.keys.paused, "dispatch")
    stage.client.lpush("dispatch", *[message() for _ in range(600)])
    sent = stage.send(queue="gpu")
    stage.step()
    stage.steps()

    assert worker.run_all() == sent


def test_a_queue_whose_key_is_no_list_stops_nothing(stage: Stage) -> None:
    """Somebody's string under its name; the others go on."""
    stage.text.set("dispatch", "a string")
    stage.text.hset("gpu", "a", "hash")
    worker = stage.worker(ingress=("dispatch", "gpu", "celery"))
    sent = stage.send(queue="celery")
    stage.steps()

    assert worker.run_all() == sent
    assert stage.text.get("dispatch") == "a string"


def test_a_key_prefix_is_before_every_key(redis_url: str) -> None:
    """Beside another app on the same Redis, with kombu's `global_keyprefix`: whole lives, refusals and reaps included."""
    app = make_app(redis_url, prefix="acme:")
    stage = Stage(redis_url, prefix="acme:", app=app)
    assert keys_of(stage.settings, app) == stage.keys
    worker = stage.worker()
    sent = stage.send(3, priority=5)
    stage.send(countdown=3600)
    stage.client.lpush("acme:dispatch", b"garbage")
    stage.steps()

    assert worker.run_all() == sent
    worker.store.goodbye()
    stage.steps()
    stray = [key for key in stage.text.scan_iter("*") if not key.startswith("acme:")]
    stage.close()
    assert stray == []


# -- messages that cannot be jobs


def test_bad_messages_are_dead_letters_and_good_ones_go_on(stage: Stage) -> None:
    """Each with its reason, in the same step as the good ones around them."""
    worker = stage.worker(models=("minilm",), concurrency=10)
    bad = {
        "bad-eta": message("bad-eta", eta="tomorrow"),
        "bad-limit": message("bad-limit", timelimit=5),
        "no-model": message("no-model", dispatch={"model": "gpt-99"}),
        "bad-cost": message("bad-cost", dispatch={"cost": -1}),
    }
    nameless = [b"not json", b"{}", b"\xff\x00", b"", b"!", b"!77", json.dumps(envelope() | {"properties": {}}).encode()]
    good = [message(f"good-{i}") for i in range(3)]
    stage.client.lpush("dispatch", good[0], *bad.values(), good[1], *nameless, good[2])

    report = stage.step()

    assert report.admitted == 3 + len(bad) + len(nameless)
    assert worker.run_all() == ["good-0", "good-1", "good-2"]
    reasons = stage.reasons()
    assert {name: reasons[name] for name in bad} == {
        "bad-eta": "bad_eta", "bad-limit": "bad_timelimit", "no-model": "unknown_model", "bad-cost": "bad_header",
    }  # fmt: skip
    assert len(reasons) == len(bad) + len(nameless)
    refused = {event.reason: event.count for event in stage.events if isinstance(event, JobsRefused)}
    assert sum(refused.values()) == len(reasons)
    assert refused["not_json"] == 5


def test_a_dead_job_raises_where_it_is_waited_for(stage: Stage) -> None:
    """AsyncResult.get() of each dead job that had an id raises JobDead with the reason, and does not hang."""
    stage.worker(models=("minilm",))
    (no_model,) = stage.send(headers={"dispatch": {"model": "gpt-99"}})
    stage.client.lpush("dispatch", b"garbage without an id", message("bad-eta", eta="tomorrow"))
    stage.steps()

    assert stage.settler.step() == 2
    assert stage.settler.step() == 0
    for id_, reason in ((no_model, "unknown_model"), ("bad-eta", "bad_eta")):
        with pytest.raises(JobDead) as raised:
            AsyncResult(id_, app=stage.app).get(timeout=10)
        assert raised.value.reason == reason
    assert stage.text.zcard(stage.keys.dead_letters) == 3
    assert stage.kinds().count("JobSettled") == 2


def test_a_settler_that_dies_is_followed_by_one_that_settles(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark goes after the result is stored, so nothing is lost between them (scenario 59)."""
    (sent,) = stage.send(headers={"dispatch": {"cost": -1}})
    stage.steps()
    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "mark_as_failure", _raise_connection_error)
        with pytest.raises(redis.ConnectionError):
            stage.settler.step()
    assert stage.text.scard(stage.keys.unsettled) == 1

    stage.settler.step()
    assert AsyncResult(sent, app=stage.app).state == "FAILURE"


def _raise_connection_error(*args: object, **kwargs: object) -> None:
    raise redis.ConnectionError("away")


def test_the_errbacks_of_a_dead_job_are_called(stage: Stage) -> None:
    """As Celery calls them for any failed job: with its id."""
    errback = stage.app.tasks["demo.errback"]
    sent = stage.app.tasks[TASK].apply_async(headers={"dispatch": {"cost": -1}}, link_error=errback.s())
    stage.steps()
    stage.settler.step()

    (raw,) = stage.client.lrange("dispatch", 0, -1)
    called = json.loads(raw)
    assert called["headers"]["task"] == "demo.errback"
    assert sent.id in called["headers"]["argsrepr"]


def test_the_chord_of_a_dead_job_fails(stage: Stage) -> None:
    """Its other part runs, the body does not, and who waits for it is told."""
    worker = stage.worker()
    job, callback = stage.app.tasks[TASK], stage.app.tasks["demo.callback"]
    result = chord([job.s(1), job.s(2).set(headers={"dispatch": {"cost": -1}})])(callback.s())
    stage.steps()
    assert len(worker.run_all()) == 1
    stage.settler.step()

    with pytest.raises(ChordError):
        AsyncResult(result.id, app=stage.app).get(timeout=10)


def test_a_broken_canvas_does_not_keep_a_dead_job_waiting(stage: Stage) -> None:
    """Its errbacks are nonsense; its own state is stored all the same."""
    stage.client.lpush("dispatch", message("broken", eta="tomorrow", embed={"errbacks": "nonsense", "chord": 5}))
    stage.steps()
    stage.settler.step()

    with pytest.raises(JobDead):
        AsyncResult("broken", app=stage.app).get(timeout=10)
    assert stage.text.scard(stage.keys.unsettled) == 0


def test_a_message_that_is_too_large(redis_url: str) -> None:
    """It is a dead letter without having been read, kept whole; its id is found when its state is stored."""
    stage = Stage(redis_url, message_bytes_max=2_000)
    worker = stage.worker(concurrency=2)
    large, good = message("large", args=("x" * 3_000,)), message("good")
    stage.client.lpush("dispatch", large, good)
    stage.step()

    assert worker.run_all() == ["good"]
    assert stage.reasons() == {"large": "too_large"}
    stage.settler.step()
    with pytest.raises(JobDead, match="too_large"):
        AsyncResult("large", app=stage.app).get(timeout=10)
    stage.close()


@pytest.mark.long
def test_a_message_of_100_mb(stage: Stage) -> None:
    """As above, at its real size, with the default limit."""
    worker = stage.worker(concurrency=2)
    large = message("large", args=("x" * 75_000_000,))
    assert len(large) > 100_000_000
    stage.client.lpush("dispatch", large)
    stage.client.lpush("dispatch", message("good"))
    stage.steps()

    assert worker.run_all() == ["good"]
    stage.settler.step()
    with pytest.raises(JobDead, match="too_large"):
        AsyncResult("large", app=stage.app).get(timeout=10)


def test_a_model_is_unknown_only_once_models_are_known(stage: Stage) -> None:
    """Before any worker named one, its jobs wait; a worker that serves it makes it known for good."""
    sent = stage.send(headers={"dispatch": {"model": "minilm"}})
    stage.steps()
    assert len(stage.waiting()) == 1
    plain = stage.worker("plain")
    stage.steps()
    assert plain.run_all() == []

    server = stage.worker("server", models=("minilm",))
    stage.steps()
    assert server.run_all() == sent
    server.store.goodbye()
    stage.steps()
    stage.send(headers={"dispatch": {"model": "minilm"}})
    (unknown,) = stage.send(headers={"dispatch": {"model": "minilm@2"}})
    stage.steps()
    assert len(stage.waiting()) == 1
    assert stage.reasons() == {unknown: "unknown_model"}


def test_an_unknown_header_field_is_said_once(stage: Stage) -> None:
    """However many jobs carry it."""
    stage.worker(concurrency=9)
    for _ in range(3):
        stage.send(2, headers={"dispatch": {"shard": 5}})
        stage.step()

    assert stage.kinds().count("UnknownHeaderField") == 1


# -- workers that leave


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
    assert [(entry.reaps, entry.attempts) for entry in stage.waiting()] == [(1, 1), (0, 0), (0, 0)]
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
    """In order, nothing counted as an attempt, and the worker is forgotten."""
    worker = stage.worker()
    sent = stage.send(3)
    stage.steps()
    assert worker.take() is not None
    worker.store.goodbye()
    stage.step()

    assert [entry.attempts for entry in stage.waiting()] == [0, 0, 0]
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


# -- leaders, and Redis itself


def test_a_standby_does_nothing_until_the_leader_is_gone(stage: Stage) -> None:
    """Then it knows all the leader knew, for that is in Redis; the old one, back again, does nothing."""
    worker = stage.worker()
    stage.steps()
    standby = stage.make_dispatcher("leader-2")
    sent = stage.send(2)
    assert not standby.step().leads
    assert stage.text.llen("dispatch") == 2

    stage.text.delete(stage.keys.leader)
    report = standby.step()
    assert (report.leads, report.assigned) == (True, 2)
    assert not stage.step().leads
    assert worker.run_all() == sent
    assert [event.token for event in stage.events if type(event).__name__ == "LeadLost"] == ["leader-1"]


def test_a_leader_that_died_half_way_is_followed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the look, after the apply whose reply is lost: the next leader finishes, and nothing runs twice."""
    worker = stage.worker(concurrency=2)
    sent = stage.send(4)
    store: Any = stage.dispatcher._store
    apply = store.apply

    def lose_the_reply(*args: Any, **kwargs: Any) -> None:
        apply(*args, **kwargs)
        raise redis.ConnectionError("lost")

    monkeypatch.setattr(store, "apply", lose_the_reply)
    with pytest.raises(redis.ConnectionError):
        stage.step()
    stage.text.delete(stage.keys.leader)
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.steps()

    assert len(worker.leases()) == 4
    assert worker.run_all() == sent


def test_a_redis_that_forgot_its_scripts_is_not_noticed(stage: Stage) -> None:
    """Before every step."""
    worker = stage.worker()
    ran: list[str] = []
    sent = stage.send(4)
    stage.send(countdown=3600)
    for _ in range(6):
        stage.client.script_flush()
        stage.step()
        ran += worker.run_all()

    assert ran == sent


def test_a_restart_of_redis_is_survived(make_redis: MakeRedis) -> None:
    """With an append-only file: what was sent, waits, is leased or runs is there afterwards, and each job runs once."""
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    stage = Stage(server.url())
    worker = stage.worker()
    sent = stage.send(6)
    stage.steps()
    running = worker.take()
    assert running is not None

    server.kill()
    with pytest.raises(redis.ConnectionError):
        stage.step()
    server.start()

    worker.end(running)
    assert [task_id(running), *in_turn(worker, stage)] == sent
    assert "WorkerSilent" not in stage.kinds()
    assert stage.is_empty()
    stage.close()


def test_what_cannot_be_read_is_passed_over(stage: Stage) -> None:
    """A lane with a name that is none, one whose jobs are none, a registration that is no JSON: each is told of once, the rest goes on."""
    keys = stage.keys
    for name in (b"no lane", b"dispatch/work/default/p0/c10/x=1", b"dispatch/work/odd/p0/c10", b"\xff/\xfe"):
        stage.text.sadd(keys.lanes, name)
        stage.text.rpush(keys.lane_prefix.encode() + name, "junk")
    stage.text.sadd(keys.workers, "0123456789ab")
    stage.text.set(keys.alive("0123456789ab"), "1", px=ALIVE_TTL_MS)
    stage.text.hset(keys.worker("0123456789ab"), "registration", '{"name": 7')
    worker = stage.worker(concurrency=4)
    sent = stage.send(4)
    dispatcher = stage.make_dispatcher("one")
    for _ in range(3):
        dispatcher.step()
    assert worker.run_all() == sent
    assert stage.kinds().count("Unreadable") == 5


def test_the_loop_goes_on_through_what_steps_raise(make_redis: MakeRedis) -> None:
    """Asleep when Redis is killed: it says so once, dispatches again when it is back, and resigns when it is stopped."""
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    stage = Stage(server.url())
    client = connect(stage.url, text=False)
    loop = Dispatcher(
        DispatchStore(client, stage.keys, "loop"),
        stage.settings,
        admission=Admission(routes={}, default_cost_s=1.0),
        clock=SystemClock(),
        rng=Random(1),
        emit=stage.events.append,
        waker=Waker(client, stage.keys.wake),
    )
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,), daemon=True)
    thread.start()
    try:
        worker = stage.worker(concurrency=4)
        sent = stage.send(2)
        eventually(lambda: len(worker.queued()) == 2)
        server.kill()
        eventually(lambda: "RedisLost" in stage.kinds())
        server.start()
        sent += stage.send(2)
        eventually(lambda: len(worker.queued()) == 4)
        assert worker.run_all() == sent
        eventually(lambda: stage.kinds().count("RedisBack") == 1)
        assert stage.kinds().count("RedisLost") == 1
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert stage.text.exists(stage.keys.leader) == 0
    stage.close()
