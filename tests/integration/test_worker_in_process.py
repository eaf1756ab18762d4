"""Attached workers that live in this process: what they change, what they serve, how they end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store.frame import FRAME_BYTES
from dispatcher.store.keys import Keys
from dispatcher.worker import attach
from tests.eventually import eventually
from tests.worker_harness import Cell, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


def test_attaching_changes_nothing_in_a_producer(cell: Cell) -> None:
    """A producer that imports an attached app has the configuration, queues and tasks it had before."""
    plain, attached = cell.make_app(attached=False), cell.make_app()
    attach(attached)
    assert dict(plain.conf.changes) == dict(attached.conf.changes)
    assert {name: queue.as_dict() for name, queue in attached.amqp.queues.items()} == {
        name: queue.as_dict() for name, queue in plain.amqp.queues.items()
    }
    assert [attached.tasks[name].acks_late for name in ("work", "pay")] == [False, False]
    assert len(attached.user_options["worker"]) == 5
    assert len(attached.steps["worker"]) == len(attached.steps["consumer"]) == 1


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
def test_jobs_run_once_and_nothing_is_left(cell: Cell, pool: str) -> None:
    """Under each pool: every job runs once, no lease stays, no queue is added to the app, no binding names the worker's list."""
    app = cell.make_app()
    queues = set(app.amqp.queues)
    with cell.in_process(pool=pool, app=app):
        epoch = cell.epoch_of("inner@test")
        results = cell.send("work", count=20)
        assert [result.get() for result in results] == [result.id for result in results]
        eventually(cell.no_leases)
        assert set(app.amqp.queues) == queues
    assert set(cell.runs().values()) == {1}
    eventually(lambda: not cell.registrations())
    bindings = [member for key in cell.client.keys("_kombu.binding*") for member in _members(cell, key)]
    assert not [member for member in bindings if epoch in member]
    assert cell.client.exists("unacked", "unacked_index") == 0


def _members(cell: Cell, key: str) -> list[str]:
    kind = cell.client.type(key)
    return [key, *(cell.client.smembers(key) if kind == "set" else cell.client.zrange(key, 0, -1))]


def test_the_ping_of_celerys_test_helper_answers(cell: Cell) -> None:
    """``start_worker`` with its ping check, as test suites of users call it, works unchanged."""
    app = cell.make_app()
    app.loader.import_module("celery.contrib.testing.tasks")
    app.set_current()
    with cell.in_process(app=app, perform_ping_check=True):
        pass


def test_an_app_worker_in_a_thread_takes_options_as_arguments(cell: Cell) -> None:
    """``app.Worker(weight=…, models=…, labels=…, queues=…)``: the registration says it, and names the queues as ingress."""
    app = cell.make_app()
    attach(app, cell.settings, weight=2)
    worker = app.Worker(
        pool="solo", hostname="own@test", weight=4, models="a,b", labels={"region": "eu"}, queues=["gpu", "celery"], quiet=True
    )
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        epoch = eventually(lambda: cell.epoch_of("own@test"))
        said = cell.registrations()[epoch]
        assert (said["weight"], said["models"], said["labels"]) == (4.0, ["a", "b"], {"region": "eu"})
        assert (said["ingress"], said["concurrency"], said["pool"]) == (["gpu", "celery"], 1, "solo")
        assert said["at_most_once"] == ["misdirected_once", "pay", "toll"]
        assert {"work", "celery.chord"} <= set(said["tasks"])
        [result] = cell.send("work", queue="gpu")
        assert result.get() == result.id
        worker.consumer.call_soon(_shut_down)
    finally:
        thread.join(10)
    assert not thread.is_alive()
    eventually(lambda: not cell.registrations())


def _shut_down() -> None:
    from celery.exceptions import WorkerShutdown

    raise WorkerShutdown(0)


def test_a_pop_that_redis_shows_again_starts_nothing(cell: Cell) -> None:
    """An append-only file that lost a pop shows the lease id again: the job runs once, at once or later."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        [result] = cell.send("work", 0.3)
        [lease] = eventually(lambda: cell.leases() and cell.runs() and cell.leases())
        cell.client.lpush(cell.keys.worker_queue(epoch), lease)
        result.get()
        cell.client.lpush(cell.keys.worker_queue(epoch), lease)
        cell.send("work")[0].get()
        assert set(cell.runs().values()) == {1}
        eventually(cell.no_leases)


def test_an_ack_that_redis_lost_is_sent_again(cell: Cell) -> None:
    """A lease that Redis shows again after its job was acked is acked again, not run again."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        [result] = cell.send("work", 0.3)
        [lease] = eventually(lambda: cell.client.hgetall(cell.keys.leases(epoch)).items())
        result.get()
        eventually(cell.no_leases)
        cell.client.hset(cell.keys.leases(epoch), *lease)
        eventually(cell.no_leases)
        assert set(cell.runs().values()) == {1}


def test_a_job_whose_assignment_redis_lost_runs_twice_and_no_more(cell: Cell) -> None:
    """An append-only file that lost an assignment: the job waits again while its worker runs it, and runs a second time; the end of
    the first run takes nothing from the second, and then there is one SUCCESS and nothing is left (scenario 33).
    """
    begun: list[str] = []
    gates = {"first": threading.Event(), "second": threading.Event()}
    app = cell.make_app()

    @app.task(name="gated", shared=False)
    def gated() -> str:
        run = list(gates)[len(begun)] if len(begun) < 2 else "one too many"
        begun.append(run)
        assert gates[run].wait(30)
        return run

    with cell.in_process(app=app) as worker:
        epoch = cell.epoch_of("inner@test")
        keeper = worker.consumer.life.keeper
        [result] = cell.send("gated")
        eventually(lambda: begun == ["first"])
        [(lost, entry)] = cell.client.hgetall(cell.keys.leases(epoch)).items()
        frame, lane = entry[:FRAME_BYTES], entry[FRAME_BYTES:]
        with cell.client.pipeline() as undo:
            undo.hdel(cell.keys.taken(epoch), lost)
            undo.hdel(cell.keys.leases(epoch), lost)
            undo.lpush(cell.keys.lane(lane), frame)
            undo.sadd(cell.keys.lanes, lane)
            undo.set(cell.keys.sequence, int(lost.partition(".")[2]) - 1)
            assert undo.execute()[:2] == [1, 1]

        eventually(lambda: begun == ["first", "second"])
        [again] = cell.leases(epoch)
        assert again != lost
        gates["first"].set()
        eventually(lambda: set(keeper.held()) == {again} and not keeper.unsent)
        assert cell.client.hgetall(cell.keys.leases(epoch)) == {again: entry}
        assert cell.client.hkeys(cell.keys.taken(epoch)) == [again]
        assert cell.client.hlen(cell.keys.messages) == 1

        gates["second"].set()
        eventually(cell.no_leases)
        assert (result.state, result.get()) == ("SUCCESS", "first")  # Celery keeps the SUCCESS that it has
        assert cell.client.exists(cell.keys.messages, cell.keys.lanes, cell.keys.taken(epoch), cell.keys.dead_letters) == 0
        assert cell.send("work")[0].get()
        assert begun == ["first", "second"]
        assert cell.epoch_of("inner@test") == epoch


def test_a_pop_whose_answer_was_lost_is_given_back(cell: Cell) -> None:
    """A lease that is neither queued nor held, seen in two beats, goes back in line and runs."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        message = cell.raw("work")
        cell.lease(epoch, message)
        cell.client.delete(cell.keys.worker_queue(epoch))  # unless the worker was quicker
        eventually(cell.ledger.ended)
        eventually(cell.no_leases)
        assert set(cell.runs().values()) == {1}


@pytest.mark.parametrize(
    ("task", "args", "state", "runs"),
    [
        ("ignore", (), "PENDING", 1),
        ("reject", (False,), "FAILURE", 1),
        ("reject", (True,), "SUCCESS", 2),
        ("fail", (), "FAILURE", 1),
        ("retry", (), "SUCCESS", 2),
        ("work", (), "SUCCESS", 1),
    ],
)
def test_every_end_of_a_task_frees_its_lease(cell: Cell, task: str, args: tuple[bool, ...], state: str, runs: int) -> None:
    """Success, failure, Ignore, Reject and retry leave the state that Celery promises and no lease."""
    with cell.in_process(pool="solo"):
        [result] = cell.send(task, *args)
        eventually(lambda: len(cell.ledger.started()) == runs and result.state == state)
        eventually(cell.no_leases)
        assert len(cell.ledger.started()) == runs


def test_an_expired_job_frees_its_lease(cell: Cell) -> None:
    """A job that expired on its way to the worker is revoked there, not run, and leaves no lease."""
    with cell.in_process() as _:
        epoch = cell.epoch_of("inner@test")
        message = cell.raw("work", expires=0.01)
        time.sleep(0.02)
        cell.lease(epoch, message)
        eventually(cell.no_leases)
        assert cell.ledger.started() == []


def test_a_job_that_rejects_itself_waits_and_is_counted(cell: Cell) -> None:
    """Reject(requeue=True) is no hot loop: the job waits before its next run, and its frame counts the reject."""
    with cell.in_process(pool="solo"):
        epoch = cell.epoch_of("inner@test")
        [result] = cell.send("reject", True)
        entry = eventually(lambda: cell.client.zrange(cell.keys.scheduled, 0, -1))[0]
        assert entry[38:46] == "00010000"
        assert result.get() == "again"
        assert cell.ledger.redelivered() == [False, True]
        assert cell.client.hget(cell.keys.worker(epoch), "failed") == "0"


BROKEN = {
    "the body is not base64": lambda m: m | {"body": "%%%"},
    "the body is not a triple": lambda m: m | {"body": "MQ=="},
    "no id in the headers": lambda m: m | {"headers": {k: v for k, v in m["headers"].items() if k != "id"}},
    "no properties": lambda m: {k: v for k, v in m.items() if k != "properties"},
    "the expiry is no date": lambda m: m | {"headers": m["headers"] | {"expires": 7}},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_message_that_cannot_be_delivered_does_not_end_the_worker(cell: Cell, fault: str) -> None:
    """Whatever slips through admission, the worker lives, the connection stays, and the job is counted, then buried."""
    with cell.in_process(pool="solo") as worker:
        epoch = cell.epoch_of("inner@test")
        broken = BROKEN[fault](json.loads(cell.raw("work")))
        cell.lease(epoch, json.dumps(broken))
        eventually(cell.no_leases)
        cell.send("work")[0].get()
        assert len(cell.ledger.started()) == 1
        assert cell.epoch_of("inner@test") == epoch
        assert worker.consumer.restart_count == 0
        eventually(lambda: not cell.waiting() and not cell.client.zcard(cell.keys.scheduled))


def test_a_producer_that_is_not_kombu_may_leave_out_the_delivery_info(cell: Cell) -> None:
    """A job without it that comes back runs again, and knows that it had begun; so does its retry that it is a run of its own."""
    with cell.in_process(pool="solo"):
        message = json.loads(cell.raw("reject", True))
        del message["properties"]["delivery_info"]
        cell.client.lpush("dispatch", json.dumps(message))
        eventually(lambda: len(cell.ledger.started()) == 2)
        assert cell.ledger.redelivered() == [False, True]
        eventually(cell.no_leases)
        assert cell.dead_letters() == {}


def test_an_eta_that_has_passed_by_redis_clock_has_passed(cell: Cell) -> None:
    """A worker whose clock is an hour behind does not hold a job that is due: it runs at once."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        cell.lease(epoch, cell.raw("work", countdown=3600))
        eventually(cell.ledger.ended)
        eventually(cell.no_leases)
        assert cell.client.zcard(cell.keys.scheduled) == 0


def test_a_worker_beats_on_where_redis_is_full(cell: Cell) -> None:
    """A Redis that refuses writes for want of memory must not make its workers look dead."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        cell.client.config_set("maxmemory", 1)
        try:
            cell.client.pexpire(cell.keys.alive(epoch), 60_000)
            eventually(lambda: cell.client.pttl(cell.keys.alive(epoch)) > 60_000)
        finally:
            cell.client.config_set("maxmemory", 0)
        cell.send("work")[0].get()


def test_a_beat_carries_what_the_worker_did(cell: Cell) -> None:
    """done, failed, retried, busy_ms, running and the age of the last look reach Redis with the beats."""
    with cell.in_process(concurrency=3):
        epoch = cell.epoch_of("inner@test")
        for result in [*cell.send("work", 0.1, count=3), *cell.send("fail"), *cell.send("retry")]:
            result.get()
        cell.send("work", 0.5)
        facts = eventually(lambda: (found := cell.client.hgetall(cell.keys.worker(epoch))).get("running") == "1" and found)
        assert (facts["done"], facts["failed"], facts["retried"]) == ("4", "1", "1")
        assert int(facts["busy_ms"]) >= 300
        assert int(facts["consume_age_ms"]) < 1500
        assert int(facts["loop_lag_ms"]) < 1000


def test_a_declared_dead_worker_in_a_users_process_stops_and_spares_the_process(cell: Cell) -> None:
    """The life's end as ``start_worker`` sees it: the worker stops, takes nothing more; this process goes on."""
    cell.stop_dispatcher()
    with cell.in_process() as worker:
        epoch = cell.epoch_of("inner@test")
        cell.client.set(cell.keys.dead(epoch), "silent")
        cell.client.delete(cell.keys.alive(epoch))
        eventually(lambda: worker.blueprint.state == 3)
        cell.lease(epoch, cell.raw("work"))
    assert cell.ledger.started() == []


def test_a_redis_that_lost_its_state_gets_the_worker_anew(cell: Cell) -> None:
    """After a FLUSHALL the worker registers a new life, which owes what it runs, and serves jobs again."""
    with cell.in_process():
        epoch = cell.epoch_of("inner@test")
        [running] = cell.send("work", 3.0)
        eventually(lambda: cell.client.hlen(cell.keys.taken(epoch)))
        cell.client.flushall()
        new = eventually(lambda: cell.epoch_of("inner@test"))
        assert new != epoch
        eventually(lambda: cell.client.hlen(cell.keys.taken(new)) == 1)
        assert cell.send("work")[0].get()
        assert running.get() == running.id
        eventually(cell.no_leases)


def test_keys_and_queues_keep_the_brokers_prefix(redis_url: str, tmp_path: Path) -> None:
    """With ``global_keyprefix`` every key of ours has it, and jobs run."""
    options = {"broker_transport_options": {"global_keyprefix": "acme."}}
    with open_cell(redis_url, tmp_path, keys=Keys(prefix="acme."), app_options=options) as cell:
        with cell.in_process():
            cell.send("work", count=3)
            eventually(lambda: len(cell.ledger.ended()) == 3)
            eventually(cell.no_leases)
            assert not [key for key in cell.client.keys("*") if not key.startswith(("acme.", "/0.acme", "celery-task-meta"))]
