"""A canary among real processes: its jobs run as the new version, its failures take it back, and nothing is lost over it."""

from __future__ import annotations

from dispatcher.core.facts.header import job_headers
from dispatcher.store.leader.rollout_store import RolloutStore
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, MakeCluster

CHAT = job_headers(model="chat")


def test_a_failing_version_is_rolled_back_by_itself(make_cluster: MakeCluster) -> None:
    """One in four of its jobs fails, at a share of 20 %: soon it has none, without anybody's doing. Every job ran once, those of the
    old version all ended well, and so does all that is sent afterwards.
    """
    cluster = make_cluster(heartbeat_s=0.2, lease_ttl_s=5)
    cluster.start_dispatcher()
    cluster.start_worker("w1", "--models", "chat@1,chat@2", pool="threads", concurrency=4)
    cluster.command("rollout", "set", "chat", "chat@1=100")
    cluster.command("rollout", "set", "chat", "chat@2=20", "--guard", "--steps", "20,100", "--step-s", "3600")
    jobs: list[str] = []
    store = RolloutStore(cluster.client, cluster.keys)

    def rolled_back() -> bool:
        if cluster.states(jobs)["PENDING"] < 40:
            jobs.extend(cluster.send("answer", count=20, headers=CHAT))
        return not store.read()["chat"].rollout.shares().get("chat@2")

    eventually(rolled_back, PATIENCE_S, store.watches)
    assert "was rolled back by its guard" in cluster.command("rollout", "status", "chat")
    eventually(lambda: not cluster.states(jobs)["PENDING"], PATIENCE_S)
    after = cluster.send("answer", count=30, headers=CHAT)
    cluster.all_succeed(after)

    assert {cluster.result(job).result for job in after} == {"chat@1"}
    states = cluster.states(jobs)
    failed = [job for job in jobs if cluster.result(job).state == "FAILURE"]
    assert states == {"SUCCESS": len(jobs) - len(failed), "FAILURE": len(failed)}
    assert all(job[0] in "0123" for job in failed)
    assert "chat@2" in {cluster.result(job).result for job in jobs if job not in failed}
    assert cluster.ledger.runs() == dict.fromkeys(jobs + after, 1)
    cluster.nothing_is_left()
