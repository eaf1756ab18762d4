"""Two dispatchers are a pair: whatever ends or stops the leader, the other goes on, nothing is lost and nothing is run twice."""

from __future__ import annotations

import signal

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster, Process


def pair(cluster: Cluster) -> tuple[Process, Process]:
    """Who leads, and who stands by."""
    return cluster.start_dispatcher(), start_standby(cluster)


def start_standby(cluster: Cluster) -> Process:
    standby = cluster.start_dispatcher(leads=False)
    eventually(lambda: "stands by" in standby.log.read_text(), PATIENCE_S, standby.tail)
    return standby


def leads(cluster: Cluster, process: Process) -> None:
    eventually(lambda: cluster.leader_pid() == process.pid, PATIENCE_S, process.tail)


def load(cluster: Cluster) -> list[str]:
    """Some seconds of work, the first of which has begun: whoever leads gives jobs out."""
    began = cluster.ledger.length()
    jobs = cluster.send("nap", 0.05, count=100)
    eventually(lambda: cluster.ledger.length() >= began + 20, PATIENCE_S)
    return jobs


def test_a_leader_is_killed_again_and_again(make_cluster: MakeCluster) -> None:
    """Twice, under load, a new standby after each: all jobs are done, once each."""
    cluster = make_cluster()
    leader, standby = pair(cluster)
    cluster.start_workers("w1", "w2")
    jobs = []
    for _ in range(2):
        jobs += load(cluster)
        leader.kill()
        leader = standby
        leads(cluster, leader)
        standby = start_standby(cluster)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)


def test_a_leader_is_frozen_and_thawed_and_the_next_one_stopped(make_cluster: MakeCluster) -> None:
    """The frozen one, whose lead is over, thinks for minutes yet that it leads: thawed under load, its scripts are refused, it says so in
    one line and stands by. SIGTERM of the other gives it the lead back at once, and not when the lead would have expired.
    """
    cluster = make_cluster(leader_ttl_s=600.0)
    first, second = pair(cluster)
    cluster.start_workers("w1", "w2")
    jobs = load(cluster)
    first.freeze()
    cluster.client.delete(cluster.keys.leader)
    leads(cluster, second)
    jobs += load(cluster)
    before = len(first.log.read_text())
    first.thaw()
    eventually(lambda: "stands by" in first.log.read_text()[before:], PATIENCE_S, first.tail)
    jobs += load(cluster)
    (line,) = first.log.read_text()[before:].splitlines()
    assert "lost the lead and stands by" in line

    second.send(signal.SIGTERM)
    assert second.wait() == 0
    leads(cluster, first)
    jobs += cluster.send("nap", 0.02, count=20)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert cluster.dead_letters() == []
