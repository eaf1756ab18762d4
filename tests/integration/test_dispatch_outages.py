"""A dispatcher whose leader, or whose Redis, goes away, and what it cannot read there."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import pytest
import redis

from dispatcher.clock import SystemClock
from dispatcher.core.admission.rules import Admission
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.wake import Waker
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.conftest import MakeRedis
from tests.eventually import eventually
from tests.integration.stage import Stage, in_turn, task_id


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
    store: Any = stage.dispatcher.parts.store
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
    for name in (b"no lane", b"dispatch/demo.job/default/p0/c10/x=1", b"dispatch/demo.job/odd/p0/c10", b"\xff/\xfe"):
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
    loop = make_dispatcher(
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
