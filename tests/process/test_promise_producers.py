"""Producers change nothing: queues, priorities, countdowns, canvas, retries and ``acks_late`` mean what Celery says they mean."""

from __future__ import annotations

import pytest
from celery import chain, chord, group, signature

from dispatcher.errors import JobDead, PoisonJob
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, MakeCluster
from tests.unsendable import Deadly, Unpicklable


def test_jobs_of_a_queue_go_only_to_workers_that_named_it(make_cluster: MakeCluster) -> None:
    """Workers started with ``-Q a``, ``-Q b`` and ``-Q a,b``: a job of queue a runs on the first or the third only."""
    cluster = make_cluster()
    cluster.start_dispatcher()
    for name, queues in (("w1", "a"), ("w2", "b"), ("w3", "a,b")):
        cluster.start_worker(name, "-Q", queues, ready=False)
    for process in cluster.processes[1:]:
        cluster.epoch(process)
    of_a = cluster.send("nap", 0.02, count=60, queue="a")
    of_b = cluster.send("nap", 0.02, count=60, queue="b")
    cluster.all_succeed(of_a + of_b)
    cluster.nothing_is_left()
    cluster.each_ran_once(of_a + of_b)
    ran_on = {entry.job: entry.worker for entry in cluster.ledger.starts()}
    assert {ran_on[job] for job in of_a} == {"w1@promise", "w3@promise"}
    assert {ran_on[job] for job in of_b} == {"w2@promise", "w3@promise"}


def test_priorities_countdown_and_canvas_work(make_cluster: MakeCluster) -> None:
    """Through attached workers: Celery's four priority steps, ``countdown``, ``chain``, ``group``, ``chord`` and ``retry``."""
    cluster = make_cluster()
    cluster.start_dispatcher()
    late = cluster.send("add", 1, 1, countdown=3)
    low = cluster.send("noop", count=5, priority=9)
    middle = cluster.send("noop", count=5, priority=5)
    high = cluster.send("noop", count=5, priority=0)
    eventually(lambda: not cluster.client.exists("dispatch", "dispatch\x06\x163", "dispatch\x06\x169"), PATIENCE_S)
    cluster.start_worker("w1", concurrency=1)
    cluster.all_succeed(low + middle + high)
    order = [entry.job for entry in cluster.ledger.starts() if entry.task == "noop"]
    assert [set(order[at : at + 5]) for at in (0, 5, 10)] == [set(high), set(middle), set(low)]

    app = cluster.producer
    add, total = signature("add", app=app), signature("total", app=app)
    chained = chain(add.clone((1, 2)), add.clone((10,)), add.clone((100,))).apply_async()
    grouped = group(add.clone((number, number)) for number in range(5)).apply_async()
    counted = chord([add.clone((number, 1)) for number in range(5)], total.clone()).apply_async()
    retried = app.send_task("flaky")
    assert chained.get(timeout=PATIENCE_S) == 113
    assert grouped.get(timeout=PATIENCE_S) == [0, 2, 4, 6, 8]
    assert counted.get(timeout=PATIENCE_S) == 15
    assert retried.get(timeout=PATIENCE_S) == 2
    cluster.all_succeed(late)
    cluster.nothing_is_left()
    assert cluster.ledger.runs()[late[0]] == 1
    assert cluster.ledger.runs()[retried.id] == 3


def test_a_countdown_is_neither_early_nor_in_a_workers_memory(make_cluster: MakeCluster) -> None:
    """A job that is not yet due is leased to nobody, and starts no earlier than it was asked to."""
    cluster = make_cluster()
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1")
    epoch = cluster.epoch(worker)
    sent_at_ms = cluster.now_ms()
    [job] = cluster.send("noop", countdown=2)
    eventually(lambda: cluster.client.zcard(cluster.keys.scheduled) == 1)
    assert cluster.leases(epoch) == 0
    cluster.all_succeed([job])
    [start] = cluster.ledger.starts()
    assert start.at_ms - sent_at_ms >= 2000
    cluster.nothing_is_left()


def test_a_job_that_kills_its_process_is_buried(make_cluster: MakeCluster) -> None:
    """The pool process dies each time the job runs: after ``attempts_max`` runs it is buried, ``get()`` raises :class:`PoisonJob` with
    the story of each, and the worker goes on with the other jobs, each run once.
    """
    cluster = make_cluster(attempts_max=2)
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1")
    [poison] = cluster.send("poison")
    others = cluster.send("nap", 0.02, count=30)
    with pytest.raises(PoisonJob, match=r"process_died: .*run 1 on w1@promise .*SIGKILL.*run 2 on w1@promise .*alone, .*SIGKILL"):
        cluster.result(poison).get(timeout=PATIENCE_S)
    cluster.all_succeed(others)
    runs = cluster.ledger.runs()
    assert runs.pop(poison) == 2
    assert runs == dict.fromkeys(others, 1)
    [letter] = cluster.dead_letters()
    assert letter["reason"] == "process_died"
    assert worker.exit_code is None


@pytest.mark.parametrize(
    ("value", "story"),
    [
        (Unpicklable(), r"delivery_failed: .*run 1 on w1@promise .*could not hand it to the pool.*run 2 on w1@promise .*could not"),
        (Deadly(), r"process_died: .*run 1 on w1@promise .*died while it read it.*run 2 on w1@promise .*alone, .*read it"),
    ],
)
def test_a_job_that_no_process_can_be_given_is_buried(make_cluster: MakeCluster, value: object, story: str) -> None:
    """To write it to a pool process fails, or the process dies while it reads it: as if it had run there, and the others run once."""
    cluster = make_cluster(attempts_max=2)
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1")
    [poison] = cluster.send("noop", headers={"unsendable": value})
    others = cluster.send("nap", 0.02, count=30)
    with pytest.raises(PoisonJob, match=story):
        cluster.result(poison).get(timeout=PATIENCE_S)
    cluster.all_succeed(others)
    assert cluster.ledger.runs() == dict.fromkeys(others, 1)
    assert worker.exit_code is None


def test_a_task_with_acks_late_false_is_buried_not_repeated(make_cluster: MakeCluster) -> None:
    """Its worker is killed while it runs: the job is not run again, ``get()`` raises; one of its kind that was queued there runs
    elsewhere, once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1", concurrency=1)
    epoch = cluster.epoch(worker)
    [running] = cluster.send("pay", 60)
    eventually(lambda: len(cluster.ledger.running()) == 1, PATIENCE_S)
    [queued] = cluster.send("pay", 0)
    eventually(lambda: cluster.queued(epoch) == 1, PATIENCE_S)
    worker.kill()
    cluster.start_worker("w2")
    with pytest.raises(JobDead, match="at_most_once"):
        cluster.result(running).get(timeout=PATIENCE_S)
    cluster.all_succeed([queued])
    assert cluster.ledger.runs() == {running: 1, queued: 1}
    [letter] = cluster.dead_letters()
    assert letter["reason"] == "at_most_once"
