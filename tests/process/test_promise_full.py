"""Redis takes no writes, under load: one clear error, nobody dies, nothing is lost or run twice; when it does again all goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster


def refuses(cluster: Cluster, error: str) -> bool:
    """Redis has refused writes since it was told to."""
    return int(cluster.client.info("errorstats").get(f"errorstat_{error}", {}).get("count", 0)) > 20


def fill(cluster: Cluster, full: bool) -> None:
    cluster.client.config_set("maxmemory", 1 if full else 0)


def lack_replicas(cluster: Cluster, lacks: bool) -> None:
    cluster.client.config_set("min-replicas-to-write", 1 if lacks else 0)


def break_the_disk(cluster: Cluster, broken: bool) -> None:
    """Its snapshots fail while a folder lies where they belong. (Since Redis 7 the settings that name the place are protected.)"""
    snapshot = Path(cluster.client.config_get("dir")["dir"], cluster.client.config_get("dbfilename")["dbfilename"])
    if broken:
        snapshot.unlink(missing_ok=True)
        snapshot.mkdir()
    else:
        snapshot.rmdir()
    cluster.client.config_set("save", "3600 1")
    cluster.client.bgsave()
    wanted = "err" if broken else "ok"
    eventually(lambda: cluster.client.info("persistence")["rdb_last_bgsave_status"] == wanted, PATIENCE_S)


REFUSALS: dict[str, Callable[[Cluster, bool], None]] = {"OOM": fill, "NOREPLICAS": lack_replicas, "MISCONF": break_the_disk}


@pytest.mark.parametrize("error", REFUSALS)
def test_a_redis_that_takes_no_writes_loses_and_repeats_nothing(make_cluster: MakeCluster, error: str) -> None:
    """Redis refuses writes while jobs are admitted, taken, run and acknowledged, for longer than leases live: the dispatcher says so at
    most once, workers live on, and afterwards each of 200 jobs has run once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5, redis=("--maxmemory-policy", "noeviction"))
    dispatcher = cluster.start_dispatcher()
    workers = [cluster.start_worker("w1", concurrency=2), cluster.start_worker("w2", pool="threads", concurrency=2)]
    epochs = {cluster.epoch(worker) for worker in workers}
    jobs = cluster.send("nap", 0.05, count=200)
    eventually(lambda: cluster.ledger.length() > 80, PATIENCE_S)
    REFUSALS[error](cluster, True)
    began_ms = cluster.ledger.now_ms()
    eventually(lambda: refuses(cluster, error) and cluster.ledger.now_ms() - began_ms > 4000, PATIENCE_S)
    REFUSALS[error](cluster, False)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert {cluster.epoch(worker) for worker in workers} == epochs
    assert [one.exit_code for one in (dispatcher, *workers)] == [None, None, None]
    said = dispatcher.log.read_text()
    # None where it wrote nothing all the while: workers that keep their results have room for no job.
    assert said.count("Redis does not answer or refuses") <= 1
