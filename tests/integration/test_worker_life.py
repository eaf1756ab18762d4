"""The life of a worker, beat by beat, where Redis loses what it knew of it, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from dispatcher.clock import ManualClock
from dispatcher.store.formats import Formats
from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.lease_pipe import LeasePipe
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, WorkerStore
from dispatcher.worker.broker import client_of
from dispatcher.worker.life.held import Outcome
from dispatcher.worker.life.host import Host
from dispatcher.worker.life.life import WorkerLife
from tests.conftest import MakeRedis
from tests.integration.stage import Stage
from tests.messages import TASK


class Acts(list[str]):
    """What the life asked of its host."""

    def asks(self, what: str) -> Any:
        return lambda: self.append(what)


@pytest.fixture
def acts() -> Acts:
    return Acts()


@pytest.fixture
def life(stage: Stage, acts: Acts) -> Iterator[WorkerLife]:
    """A registered life, with the client that kombu's own channel gives it."""
    host = Host(
        call_soon=lambda act: act(), has_loop=False, stop_warm=acts.asks("stop warm"), kill_pool=acts.asks("kill pool"),
        stop_dead=acts.asks("stop dead"), stop_short=acts.asks("stop short"), switch_queue=acts.asks("switch queue"),
        is_reserved=lambda _: True, runs_at_most_once=lambda _: False, loop_runs_jobs=False,
    )  # fmt: skip
    memory = SimpleNamespace(loading_ms=lambda *_: 0, read=lambda: None, close=lambda: None)
    registration = Registration(name="w@h", host="h", pid=1, concurrency=4, tasks=(TASK,))
    with stage.app.connection_for_read(url=celery_url(stage.url)) as connection:
        client = client_of(connection.default_channel, stage.settings)
        made = WorkerLife(registration, stage.settings, stage.keys, client, ManualClock(), host, cast("Any", memory))
        made._register()
        made.step()
        yield made
        made.finish()


def running(stage: Stage, life: WorkerLife) -> str:
    """The lease of a job that this worker has begun."""
    stage.send()
    stage.steps()
    lease_id = stage.client.rpop(life.queue_key)
    ((name, _),) = life.keeper.take(lease_id)
    return name


def test_a_redis_may_lose_its_state_any_number_of_times(stage: Stage, life: WorkerLife) -> None:
    """Each time a new life is registered; the app's limit of connections, ten by default, is not that of lives."""
    epochs = set()
    for _ in range(30):
        stage.client.flushall()
        life.step()
        epochs.add(life.epoch)
        assert stage.text.exists(stage.keys.alive(life.epoch))
    assert len(epochs) == 30


def test_one_new_life_is_made_however_often_redis_refuses_it(
    stage: Stage, life: WorkerLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is registered once Redis takes writes again, and owes what runs here."""
    lease_id = running(stage, life)
    stage.client.flushall()
    register = WorkerStore.register

    def refuse(*_: Any) -> int:
        raise redis.ResponseError("OOM command not allowed")

    monkeypatch.setattr(WorkerStore, "register", refuse)
    tried = set()
    for _ in range(12):
        with pytest.raises(redis.ResponseError):
            life.step()
        tried.add(life.epoch)
    monkeypatch.setattr(WorkerStore, "register", register)
    life.step()
    assert tried == {life.epoch}
    assert stage.text.hkeys(stage.keys.leases(life.epoch)) == [lease_id]


def test_a_worker_that_cannot_read_the_cell_that_began_anew_finishes_and_ends(
    stage: Stage, life: WorkerLife, acts: Acts, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis lost its state, and a later version leads there now: what runs here is finished, and nothing is taken. Said once."""
    running(stage, life)
    stage.client.flushall()
    stage.make_store("newer").elect(ttl_ms=60_000, info={"host": "node7"}, formats=Formats(2, 2))
    life._notes.put("drain")
    life._notes.put("stop")

    life._run()

    assert acts == ["switch queue", "stop warm"]
    (said,) = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert said.startswith("worker w@h reads format 1, but the leading dispatcher on node7 reads format 2: start a newer version here;")
    assert stage.text.scard(stage.keys.workers) == 0


def test_what_runs_is_adopted_though_the_answer_to_the_registration_was_lost(
    stage: Stage, life: WorkerLife, acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next beat is that of a life that is known: the consumer has its list, and Redis what it owes."""
    lease_id = running(stage, life)
    stage.client.flushall()
    register = WorkerStore.register

    def lose(*args: Any) -> int:
        register(*args)
        raise redis.TimeoutError("no answer")

    monkeypatch.setattr(WorkerStore, "register", lose)
    with pytest.raises(redis.TimeoutError):
        life.step()
    monkeypatch.setattr(WorkerStore, "register", register)
    life.step()
    assert stage.text.hkeys(stage.keys.leases(life.epoch)) == [lease_id]
    assert acts == ["switch queue"]


def test_a_leaving_worker_is_given_nothing_though_redis_forgot_that_it_leaves(
    stage: Stage, life: WorkerLife, acts: Acts
) -> None:
    """Its beats say so again; it leaves once."""
    life.drain("exit")
    life.step()
    assert acts == ["stop warm"]
    for forget in (lambda: stage.text.hdel(stage.keys.worker(life.epoch), "draining"), stage.client.flushall):
        forget()
        for _ in range(3):
            life.step()
        assert stage.text.hget(stage.keys.worker(life.epoch), "draining") == "exit"
    assert acts == ["stop warm", "switch queue"]


def test_a_primary_that_became_a_replica_is_looked_for_anew(make_redis: MakeRedis) -> None:
    """Its address may lead elsewhere by now: the connection that it answered READONLY on is given up."""
    stage = Stage(make_redis().url())
    worker = stage.worker()
    stage.send()
    stage.steps()
    client = connect(stage.url, text=False)
    pipe, leader = LeasePipe(client, stage.keys, worker.epoch), stage.make_dispatcher("two")
    stage.dispatcher.resign()
    leader.parts.store.look([], limit=1, message_bytes_max=1)
    (waiting,) = worker.queued()
    stage.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    for refused in (lambda: pipe.take(waiting.encode(), 1), leader.step):
        with pytest.raises(redis.ResponseError, match=r"READONLY|read only replica"):
            refused()
    assert pipe._connection._sock is None
    assert leader.parts.store._scripts._connection._sock is None
    stage.close()


@pytest.mark.parametrize("slept", [False, True], ids=["Redis lost it", "it slept for a day"])
def test_a_life_that_redis_forgot_for_its_silence_is_over(stage: Stage, life: WorkerLife, acts: Acts, slept: bool) -> None:
    """After a day Redis knows no longer that it declared the life dead: its jobs are others'. Where Redis lost its state they are not."""
    epoch = life.epoch
    stage.client.delete(stage.keys.alive(epoch))
    if slept:
        life._heard_ms -= ALIVE_TTL_MS
    life.step()
    assert acts == (["stop dead"] if slept else ["switch queue"])
    assert (life.epoch == epoch) is slept


@pytest.mark.parametrize("ends", [False, True], ids=["at leisure", "in time"])
def test_a_goodbye_is_tried_for_as_long_as_there_is_time(
    stage: Stage, life: WorkerLife, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Redis is away at the end: a worker whose time to stop is up does not wait for it."""
    tried: list[str] = []

    def refuse(store: WorkerStore) -> None:
        tried.append(store.epoch)
        raise redis.ConnectionError("away")

    monkeypatch.setattr(WorkerStore, "goodbye", refuse)
    if ends:
        life.leave(0.0)
    life.finish()
    assert len(tried) == (1 if ends else 5)


@pytest.mark.parametrize("broken", [0, 1], ids=["was away before", "breaks once more"])
def test_what_has_ended_is_told_though_the_time_to_stop_is_up(
    stage: Stage, life: WorkerLife, acts: Acts, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """Redis was away when last asked: the ack is sent all the same, before the goodbye; what still runs goes back."""
    ended, cut_short = running(stage, life), running(stage, life)
    refusals = [redis.ConnectionError("broken")] * broken
    ack = life.keeper._pipe.ack

    def fragile(lease_ids: list[str]) -> int:
        if refusals:
            raise refusals.pop()
        return ack(lease_ids)

    monkeypatch.setattr(life.keeper._pipe, "ack", fragile)
    life.keeper.outbox.reachable = False
    life.keeper.ack(ended, Outcome.DONE)
    assert life.keeper.unsent == 1
    life._cut_short()

    assert acts == ["kill pool", "stop short"]
    assert [lease_id.decode() for lease_id in stage.client.hkeys(stage.keys.leases(life.epoch))] == [cut_short]
    assert stage.client.get(stage.keys.dead(life.epoch)) == b"goodbye"


def test_a_life_that_cannot_tell_what_has_ended_says_no_goodbye(
    stage: Stage, life: WorkerLife, acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends all the same; in Redis it lives until it has been silent."""
    ended = running(stage, life)

    def refuse(_: list[str]) -> int:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(life.keeper._pipe, "ack", refuse)
    life.keeper.outbox.reachable = False
    life.keeper.ack(ended, Outcome.DONE)
    life._cut_short()

    assert acts == ["kill pool", "stop short"]
    assert not stage.client.exists(stage.keys.dead(life.epoch))
