"""The cluster that the promise tests break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeRedis
from tests.process.cluster import Cluster, MakeCluster


@pytest.fixture
def make_cluster(make_redis: MakeRedis, tmp_path: Path) -> Iterator[MakeCluster]:
    """``make_cluster(lease_ttl_s=2, redis=("--appendonly", "yes"))``: empty Redis servers, no process yet."""
    clusters: list[Cluster] = []

    def make(*, redis: tuple[str, ...] = (), **settings: object) -> Cluster:
        clusters.append(Cluster(make_redis(*redis), make_redis(), tmp_path, **settings))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.end()
