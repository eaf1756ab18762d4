"""A whole cell through TLS: dispatcher, workers of every pool, producer, command line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster
from tests.tls import TlsProxy


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    return make_cluster()


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[TlsProxy]:
    made = TlsProxy(cluster.broker.socket, tmp_path)
    yield made
    made.close()


def test_jobs_run_once_and_workers_leave(cluster: Cluster, proxy: TlsProxy) -> None:
    """All say ``rediss://`` and check the certificate; a worker is killed, another stopped, and the command line sees it."""
    cluster.start_dispatcher(via=proxy)
    pools = {"prefork": 2, "threads": 2, "solo": 1}
    workers = [cluster.start_worker(pool, pool=pool, concurrency=slots, via=proxy) for pool, slots in pools.items()]
    producer = Celery("producer", broker=proxy.url(), backend=proxy.url(1), set_as_current=False)
    results = [producer.send_task("add", (number, 1), queue="dispatch") for number in range(30)]
    assert [result.get(timeout=PATIENCE_S) for result in results] == list(range(1, 31))
    naps = [producer.send_task("nap", (0.3,), queue="dispatch") for _ in range(12)]
    eventually(lambda: len(cluster.ledger.running()) == 5, PATIENCE_S)
    workers[0].kill()
    workers[1].send(signal.SIGTERM)
    assert workers[1].wait() == 0
    assert {result.get(timeout=PATIENCE_S) for result in naps} <= {"prefork@promise", "threads@promise", "solo@promise"}
    status = json.loads(cluster.command("status", "--json", via=proxy))
    assert [worker["name"] for worker in status["workers"] if worker["state"] == "ready"] == ["solo@promise"]
    assert len([job for job, runs in cluster.ledger.runs().items() if runs > 1]) <= 2
    cluster.nothing_is_left()
