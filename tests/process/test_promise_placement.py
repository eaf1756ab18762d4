"""A job that must stay in a region stays there, whatever dies; one that must begin in time begins in time, or not at all."""

from __future__ import annotations

import pytest

from dispatcher.core.facts.header import job_headers
from dispatcher.errors import JobDead
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, MakeCluster


@pytest.mark.timeout(240)
def test_jobs_of_a_region_never_run_elsewhere(make_cluster: MakeCluster) -> None:
    """The only EU worker is killed with running and queued jobs while others stand idle: the EU jobs wait, and a new EU worker runs them.
    By the ledger none ever began anywhere else.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5, window_extra=2)
    cluster.start_dispatcher()
    options = {"eu1": "region=eu", "us1": "region=us", "plain1": "gpu=a100"}
    workers = {name: cluster.start_worker(name, "--label", label, ready=False) for name, label in options.items()}
    eu = cluster.epoch(workers["eu1"])
    for worker in workers.values():
        cluster.epoch(worker)
    in_eu = job_headers(requires={"region": "eu"})
    bound = cluster.send("nap", 5, count=2, headers=in_eu) + cluster.send("noop", count=10, headers=in_eu)
    eventually(lambda: len(cluster.ledger.running()) == 2 and cluster.queued(eu) > 0, PATIENCE_S)

    workers["eu1"].kill()
    eventually(lambda: cluster.gone_at_ms(eu), PATIENCE_S, cluster.processes[0].tail)
    free = cluster.send("noop", count=10)
    cluster.all_succeed(free)
    # Others were idle, and have just shown that they work.
    waiting = cluster.client.smembers(cluster.keys.lanes)
    assert waiting
    assert all("/requires=region=eu" in lane for lane in waiting)

    cluster.start_worker("eu2", "--label", "region=eu", concurrency=3)
    cluster.all_succeed(bound)
    where = {(entry.job, entry.worker) for entry in cluster.ledger.starts()}
    assert {worker for job, worker in where if job in bound} == {"eu1@promise", "eu2@promise"}
    assert {worker for job, worker in where if job in free} <= {"us1@promise", "plain1@promise"}


def test_a_job_that_is_late_is_not_begun(make_cluster: MakeCluster) -> None:
    """The only slot is busy until after the deadline: whoever waits is told while it is, and the job never begins."""
    cluster = make_cluster(window_extra=2)
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1", concurrency=1)
    epoch = cluster.epoch(worker)
    (long,) = cluster.send("nap", 60)
    eventually(lambda: len(cluster.ledger.running()) == 1, PATIENCE_S)
    late = cluster.send("noop", count=6, headers=job_headers(deadline_s=0.5))

    for job in late:
        with pytest.raises(JobDead, match="deadline_passed"):
            cluster.result(job).get(timeout=PATIENCE_S)
    assert cluster.states([long]) == {"PENDING": 1}
    assert cluster.leases(epoch) == 1
    assert {entry.job for entry in cluster.ledger.starts()} == {long}
    assert {one["reason"] for one in cluster.dead_letters()} == {"deadline_passed"}
