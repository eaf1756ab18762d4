"""The dispatcher and Redis die under load: workers go on, nothing is lost, nothing runs twice."""

from __future__ import annotations

import signal

import pytest

from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def past(cluster: Cluster, jobs: int) -> bool:
    """Whether about so many jobs have run."""
    return cluster.ledger.length() >= 2 * jobs


def test_a_killed_dispatcher_loses_and_repeats_nothing(make_cluster: MakeCluster) -> None:
    """SIGKILL of the dispatcher, three times under load, another started each time: each of 600 jobs runs once."""
    cluster = make_cluster()
    dispatcher = cluster.start_dispatcher()
    workers = cluster.start_workers("w1", "w2")
    jobs = cluster.send("nap", 0.02, count=600)
    for number in range(1, 4):
        eventually(lambda number=number: past(cluster, 100 * number), PATIENCE_S)
        dispatcher.kill()
        dispatcher = cluster.start_dispatcher()
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert [worker.exit_code for worker in workers] == [None, None]


@pytest.mark.parametrize("sig", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
def test_a_restart_of_redis_loses_and_repeats_nothing(make_cluster: MakeCluster, sig: signal.Signals) -> None:
    """Redis, with its append-only file synced always, ends and comes back under load, twice: dispatcher and workers come back by
    themselves, all 600 results are there, each job ran once.
    """
    cluster = make_cluster(redis=DURABLE)
    dispatcher = cluster.start_dispatcher()
    workers = [cluster.start_worker("w1", concurrency=4), cluster.start_worker("w2", pool="threads", concurrency=4)]
    jobs = cluster.send("nap", 0.05, count=600)
    for number in (1, 2):
        eventually(lambda number=number: past(cluster, 150 * number), PATIENCE_S)
        cluster.broker.stop(sig)
        cluster.broker.start()
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert [one.exit_code for one in (dispatcher, *workers)] == [None, None, None]


def test_redis_away_for_longer_than_the_leases_live_kills_nobody(make_cluster: MakeCluster) -> None:
    """Redis stands still for twice the leases' time to live, with jobs running all the while: no worker is declared dead, each job
    runs once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    workers = cluster.start_workers("w1", "w2")
    epochs = {cluster.epoch(worker) for worker in workers}
    jobs = cluster.send("nap", 7, count=4)
    eventually(lambda: len(cluster.ledger.running()) == 4, PATIENCE_S)
    cluster.broker.freeze()
    # Only the ledger's Redis answers now. The jobs run on while twice what a lease lives goes by.
    began_ms = max(entry.at_ms for entry in cluster.ledger.starts())
    eventually(lambda: cluster.ledger.now_ms() - began_ms > 6200, PATIENCE_S)
    cluster.broker.thaw()
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert {cluster.epoch(worker) for worker in workers} == epochs


def test_a_retry_that_is_sent_in_an_outage_is_sent_once(make_cluster: MakeCluster) -> None:
    """Redis stands still for longer than any connection waits, while jobs retry by the first connections of their processes: each runs
    once, and once more as its retry.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    workers = [cluster.start_worker(pool, pool=pool, concurrency=2) for pool in ("prefork", "threads")]
    jobs = cluster.send("knock", count=4)
    eventually(lambda: len(cluster.ledger.running()) == 4, PATIENCE_S)
    cluster.broker.freeze()
    began_ms = cluster.ledger.now_ms()
    cluster.ledger.say("retry now")
    eventually(lambda: cluster.ledger.now_ms() - began_ms > 12_000, PATIENCE_S)
    cluster.broker.thaw()
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    assert cluster.ledger.runs() == dict.fromkeys(jobs, 2)
    assert [one.exit_code for one in workers] == [None, None]


LONG_JOB_S = 7.0
"""Longer than every timeout: visibility (1 s), a beat's answer (1.5 s), leases and lead (3 s), a socket's silence (5 s)."""


def test_jobs_longer_than_every_timeout_run_once_over_a_restart_and_a_connection_kill(make_cluster: MakeCluster) -> None:
    """While they run, Redis is killed and restarted, and then every connection is killed, in each pool: each job runs once, to its end,
    on the worker where it began.
    """
    cluster = make_cluster(redis=DURABLE, lease_ttl_s=3, heartbeat_s=0.5, window_extra=0)
    cluster.start_dispatcher()
    workers = [cluster.start_worker(pool, pool=pool, concurrency=1, ready=False) for pool in ("prefork", "threads", "solo")]
    epochs = {cluster.epoch(worker) for worker in workers}
    jobs = cluster.send("nap", LONG_JOB_S, count=3)
    eventually(lambda: len(cluster.ledger.running()) == 3, PATIENCE_S)
    cluster.broker.kill()
    cluster.broker.start()
    # Beats have come again from all, so connections are there again to be killed.
    eventually(lambda: all(cluster.client.pttl(cluster.keys.alive(one)) > ALIVE_TTL_MS - 1000 for one in epochs), PATIENCE_S)
    for kind in ("pubsub", "normal"):
        cluster.client.client_kill_filter(_type=kind, skipme=True)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert {cluster.epoch(worker) for worker in workers} == epochs
    assert [one.exit_code for one in workers] == [None, None, None]


@pytest.mark.long
def test_what_runs_while_redis_loses_everything_is_owed_again(make_cluster: MakeCluster) -> None:
    """The workers begin new lives and adopt what they run. One that lives ends its jobs once; of one that is then killed they run again,
    though Redis had forgotten them.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    lives, dies = cluster.start_workers("w1", "w2")
    jobs = cluster.send("nap", 8, count=4)
    eventually(lambda: len(cluster.ledger.running()) == 4, PATIENCE_S)
    before = {cluster.epoch(lives), cluster.epoch(dies)}
    cluster.client.flushall()
    eventually(lambda: cluster.taken(cluster.epoch(lives)) == cluster.taken(cluster.epoch(dies)) == 2, PATIENCE_S, dies.tail)
    assert not before & {cluster.epoch(lives), cluster.epoch(dies)}
    lost = {entry.job for entry in cluster.ledger.running() if entry.worker.startswith("w2")}
    dies.kill()
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    assert cluster.ledger.runs() == {job: 2 if job in lost else 1 for job in jobs}
    assert len(lost) == 2
