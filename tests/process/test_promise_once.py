"""Nobody dies: every job runs exactly once, and nothing is left of it, whatever happens to connections and timeouts."""

from __future__ import annotations

import pytest

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster


@pytest.mark.timeout(300)
@pytest.mark.parametrize("jobs_sent", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_jobs_by_plain_send_task_each_run_once(make_cluster: MakeCluster, jobs_sent: int) -> None:
    """No-op jobs, more than one call admits, through three attached prefork workers: all results there, each executed once, every
    structure empty.
    """
    cluster = make_cluster()
    cluster.start_dispatcher()
    workers = cluster.start_workers("w1", "w2", "w3")
    jobs = cluster.send("noop", count=jobs_sent)
    eventually(lambda: cluster.ledger.length() >= 2 * jobs_sent, 240, lambda: f"{cluster.ledger.length()} lines in the ledger")
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert {entry.worker for entry in cluster.ledger.starts()} == {f"{worker.name}@promise" for worker in workers}
    assert [worker.exit_code for worker in workers] == [None, None, None]


def test_a_job_longer_than_every_timeout_runs_once(make_cluster: MakeCluster) -> None:
    """Jobs of 7 s with lease_ttl_s of 3 s and the app's visibility timeout of 1 s, restored every second by stock Celery; idle workers
    stand by to take what comes back. Each runs once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    cluster.start_workers("w1", "w2", concurrency=1)
    cluster.start_worker("w3", pool="solo")
    cluster.start_worker("w4", pool="threads")
    jobs = cluster.send("nap", 7, count=3)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)


def kill_connections_under_load(cluster: Cluster, *, pool: str, concurrency: int, jobs: int, kills: int) -> None:
    """Every connection to the broker is cut ``kills`` times, spread over the jobs: the workers', the pool's, the dispatcher's."""
    cluster.start_dispatcher()
    workers = cluster.start_workers("w1", "w2", pool=pool, concurrency=concurrency)
    sent = cluster.send("nap", 0.02, count=jobs)
    for kill in range(1, kills + 1):
        eventually(lambda done=2 * jobs * kill // (kills + 2): cluster.ledger.length() >= done, PATIENCE_S, workers[0].tail)
        cluster.client.client_kill_filter(_type="normal", skipme=True)
    cluster.all_succeed(sent)
    cluster.nothing_is_left()
    cluster.each_ran_once(sent)
    assert [worker.exit_code for worker in workers] == [None, None]
    again = cluster.send("noop", count=20)
    cluster.all_succeed(again)
    cluster.each_ran_once(sent + again)


@pytest.mark.parametrize(
    ("pool", "concurrency", "jobs"),
    [
        ("prefork", 4, 600),
        pytest.param("threads", 4, 600, marks=pytest.mark.long),
        pytest.param("solo", 1, 300, marks=pytest.mark.long),
    ],
)
def test_no_connection_that_breaks_repeats_or_loses_a_job(make_cluster: MakeCluster, pool: str, concurrency: int, jobs: int) -> None:
    """16 times ``CLIENT KILL TYPE normal`` under load: all jobs run once, all results are there, no lease is left, workers live on."""
    kill_connections_under_load(make_cluster(), pool=pool, concurrency=concurrency, jobs=jobs, kills=16)
