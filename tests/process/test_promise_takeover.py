"""Two dispatchers are a pair: whatever ends or stops the leader, the other goes on, nothing is lost and nothing is run twice."""

from __future__ import annotations

import signal

from tests.process.support import PATIENCE_S, Cluster, MakeCluster, Process
from tests.support import eventually


def pair(cluster: Cluster) -> tuple[Process, Process]:
    """Who leads, and who stands by."""
    return cluster.start_dispatcher(), start_standby(cluster)


def start_standby(cluster: Cluster) -> Process:
    standby = cluster.start_dispatcher(leads=False)
    eventually(lambda: "stands by" in standby.log.read_text(), PATIENCE_S, standby.tail)
    return standby


def leads(cluster: Cluster, process: Process) -> None:
    eventually(lambda: cluster.leader_pid() == process.pid, PATIENCE_S, process.tail)


def some_more_run(cluster: Cluster, count: int = 20) -> None:
    """Jobs are being run, whoever leads."""
    began = cluster.ledger.length()
    eventually(lambda: cluster.ledger.length() >= began + 2 * count, PATIENCE_S)


def test_a_leader_is_killed_again_and_again(make_cluster: MakeCluster) -> None:
    """Twice, under load, a new standby after each: all 500 jobs are done, once each."""
    cluster = make_cluster()
    leader, standby = pair(cluster)
    cluster.start_workers("w1", "w2")
    jobs = cluster.send("nap", 0.02, count=500)
    for _ in range(2):
        some_more_run(cluster)
        leader.kill()
        leader = standby
        leads(cluster, leader)
        standby = start_standby(cluster)
    jobs += cluster.send("nap", 0.02, count=20)
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
    jobs = cluster.send("nap", 0.02, count=300)
    some_more_run(cluster)
    first.freeze()
    cluster.client.delete(cluster.keys.leader)
    leads(cluster, second)
    some_more_run(cluster)
    before = len(first.log.read_text())
    first.thaw()
    eventually(lambda: "stands by" in first.log.read_text()[before:], PATIENCE_S, first.tail)
    some_more_run(cluster)
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
