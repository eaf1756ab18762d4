"""Redis is full, under load: one clear error, nobody dies, nothing is lost or run twice; with room again all goes on."""

from __future__ import annotations

from tests.process.support import PATIENCE_S, Cluster, MakeCluster
from tests.support import eventually


def is_full(cluster: Cluster) -> bool:
    """Redis has refused a write since it was told to have no room."""
    return int(cluster.client.info("errorstats").get("errorstat_OOM", {}).get("count", 0)) > 20


def test_a_full_redis_loses_and_repeats_nothing(make_cluster: MakeCluster) -> None:
    """Redis refuses what makes it fuller while jobs are admitted, taken, run and acknowledged, for longer than leases live: the
    dispatcher says so at most once, workers live on, and with room again each of 200 jobs has run once.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5, redis=("--maxmemory-policy", "noeviction"))
    dispatcher = cluster.start_dispatcher()
    workers = [cluster.start_worker("w1", concurrency=2), cluster.start_worker("w2", pool="threads", concurrency=2)]
    epochs = {cluster.epoch(worker) for worker in workers}
    jobs = cluster.send("nap", 0.05, count=200)
    eventually(lambda: cluster.ledger.length() > 80, PATIENCE_S)
    cluster.client.config_set("maxmemory", 1)
    began_ms = cluster.ledger.now_ms()
    eventually(lambda: is_full(cluster) and cluster.ledger.now_ms() - began_ms > 4000, PATIENCE_S)
    cluster.client.config_set("maxmemory", 0)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert {cluster.epoch(worker) for worker in workers} == epochs
    assert [one.exit_code for one in (dispatcher, *workers)] == [None, None, None]
    said = dispatcher.log.read_text()
    # None where it wrote nothing all the while: workers that keep their results have room for no job.
    assert said.count("Redis does not answer or refuses") <= 1
