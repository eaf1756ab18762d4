"""Versions that cannot read each other: whoever comes later refuses to start, in one sentence."""

from __future__ import annotations

from tests.process.cluster import Cluster, MakeCluster


def test_a_dispatcher_of_a_version_that_cannot_read_this_cell_says_so_and_ends(make_cluster: MakeCluster) -> None:
    """It does not wait for its turn to lead, for it may not come to it for days."""
    cluster: Cluster = make_cluster()
    cluster.start_dispatcher()
    cluster._app = "tests.process.newer_app"
    newer = cluster.start_dispatcher(leads=False)

    assert newer.wait() == 2
    assert "this dispatcher reads format 2, but the leading dispatcher on " in newer.tail()
    assert "Traceback" not in newer.tail()


def test_a_worker_of_a_version_that_cannot_read_this_cell_takes_nothing(make_cluster: MakeCluster) -> None:
    """It ends before it has registered, and says why; the jobs run on the worker that can read them."""
    cluster: Cluster = make_cluster()
    cluster.start_dispatcher()
    cluster._app = "tests.process.newer_app"
    newer = cluster.start_worker("w2", ready=False)

    assert newer.wait() == 1
    assert "worker w2@promise reads format 2, but the leading dispatcher on " in newer.tail()
    assert "Traceback" not in newer.tail()
    assert cluster.client.scard(cluster.keys.workers) == 0

    cluster._app = "tests.process.app"
    cluster.start_worker("w1")
    jobs = cluster.send("nap", 0.01, count=5)
    cluster.all_succeed(jobs)
    assert {entry.worker for entry in cluster.ledger.starts()} == {"w1@promise"}
