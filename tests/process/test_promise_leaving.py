"""Workers leave in other ways than SIGKILL: frozen and thawed, asked to stop, drained. Nothing is lost, nothing runs twice."""

from __future__ import annotations

import signal

import pytest

from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.worker.leasing.celery_host import EXIT_DECLARED_DEAD
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster, Process, freeze_with_a_popped_job


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_thawed_worker_starts_nothing_and_exits(make_cluster: MakeCluster, pool: str) -> None:
    """Frozen (the whole process group) with a job popped into its socket, past its lease: the job runs once, elsewhere. Thawed, the
    process exits with the code that asks for a restart, having started nothing.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    frozen = cluster.start_worker("w1", pool=pool, concurrency=1)
    epoch = cluster.epoch(frozen)
    *before, job = freeze_with_a_popped_job(cluster, frozen)
    cluster.start_worker("w2")
    cluster.all_succeed([job])
    eventually(lambda: cluster.gone_at_ms(epoch))
    frozen.thaw()
    assert frozen.wait() == EXIT_DECLARED_DEAD
    cluster.nothing_is_left()
    cluster.each_ran_once([*before, job])
    assert [entry.worker for entry in cluster.ledger.starts() if entry.job == job] == ["w2@promise"]


def test_a_worker_frozen_while_it_runs_jobs_exits_when_thawed(make_cluster: MakeCluster) -> None:
    """Frozen with running and queued jobs, thawed when they have run elsewhere: it exits, its pool with it, and what it held changes
    nothing. What was queued ran once; what was running at the freeze was begun once more, elsewhere.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    frozen = cluster.start_worker("w1")
    epoch = cluster.epoch(frozen)
    jobs = cluster.send("nap", 1.5, count=4)
    eventually(lambda: len(cluster.ledger.running()) == 2 and cluster.queued(epoch) == 2, PATIENCE_S)
    frozen.freeze()
    running = {entry.job for entry in cluster.ledger.running()}
    cluster.start_worker("w2", concurrency=4)
    cluster.all_succeed(jobs)
    frozen.thaw()
    assert frozen.wait() != 0
    cluster.nothing_is_left()
    assert cluster.ledger.runs() == {job: 2 if job in running else 1 for job in jobs}
    assert {entry.job for entry in cluster.ledger.starts() if entry.worker == "w1@promise"} == running


def leave_under_load(cluster: Cluster, how: str) -> None:
    """One of two workers leaves with running and queued jobs: its queue goes to the other at once, while it still runs what it began."""
    cluster.start_dispatcher()
    leaving, staying = cluster.start_workers("w1", "w2")
    epoch = cluster.epoch(leaving)
    jobs = cluster.send("nap", 4, count=6)
    eventually(lambda: len(cluster.ledger.running()) == 4 and cluster.queued(epoch) > 0, PATIENCE_S)
    begun = {entry.job for entry in cluster.ledger.running() if entry.worker == "w1@promise"}
    if how == "SIGTERM":
        leaving.send(signal.SIGTERM)
    else:
        AdminStore(cluster.client, cluster.keys, ("dispatch",)).drain("w1@promise", keep=False)  # what the command calls, without its start
    eventually(lambda: cluster.leases(epoch) == len(begun), PATIENCE_S)
    assert cluster.ledger.ended() & begun == set(), "its queue was given back only when what it ran had ended"
    more = cluster.send("noop", count=10)
    assert leaving.wait() == 0
    cluster.all_succeed(jobs + more)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs + more)
    assert {entry.job for entry in cluster.ledger.starts() if entry.worker == "w1@promise"} == begun
    assert staying.exit_code is None


@pytest.mark.parametrize("how", ["SIGTERM", "drain"])
def test_a_worker_that_is_asked_to_leave_loses_nothing(make_cluster: MakeCluster, how: str) -> None:
    """SIGTERM, and what ``dispatcher drain WORKER`` asks for: what runs is finished, once; what was queued goes elsewhere at once; then it
    exits with 0 by itself. The jobs take longer than the leases live, so it must beat to its end.
    """
    leave_under_load(make_cluster(lease_ttl_s=3, heartbeat_s=0.5), how)


def test_workers_that_come_and_go_under_load_repeat_nothing(make_cluster: MakeCluster) -> None:
    """A rolling restart: each of three workers is replaced, by SIGTERM, while 600 jobs go through. Each runs once."""
    cluster = make_cluster()
    cluster.start_dispatcher()
    workers = cluster.start_workers("w0", "w1", "w2")
    jobs: list[str] = []
    for number in range(3):
        jobs += cluster.send("nap", 0.05, count=200)
        oldest: Process = workers.pop(0)
        epoch = cluster.epoch(oldest)
        eventually(lambda epoch=epoch: cluster.queued(epoch) > 0, PATIENCE_S)
        oldest.send(signal.SIGTERM)
        workers.append(cluster.start_worker(f"w{number + 3}"))
        assert oldest.wait() == 0
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)


def test_two_workers_of_one_name_are_two_lives(make_cluster: MakeCluster) -> None:
    """Neither ends the other or takes its jobs. One that is frozen past its lease and thawed beside the other exits; the other lives on."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    one, other = (cluster.start_worker("w1", concurrency=1) for _ in range(2))
    gone, stays = cluster.epoch(one), cluster.epoch(other)
    jobs = cluster.send("nap", 0.05, count=60)
    cluster.all_succeed(jobs)
    assert len({entry.pid for entry in cluster.ledger.starts()}) == 2
    one.freeze()
    eventually(lambda: cluster.gone_at_ms(gone), PATIENCE_S)
    jobs += cluster.send("nap", 0.05, count=20)
    cluster.all_succeed(jobs)
    one.thaw()
    assert one.wait() == EXIT_DECLARED_DEAD
    jobs += cluster.send("noop", count=10)
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)
    assert cluster.epoch(other) == stays


def test_a_retry_of_a_run_that_is_stale_makes_at_most_one_line_more(make_cluster: MakeCluster) -> None:
    """What a task sends cannot be fenced: frozen in a job that ran elsewhere meanwhile, then thawed, it may send its retry too. That one
    runs at most once more; the result is there, nothing is left.
    """
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    frozen = cluster.start_worker("w1", concurrency=1)
    [job] = cluster.send("knock")
    eventually(lambda: cluster.ledger.runs()[job] == 1, PATIENCE_S)
    frozen.freeze()
    cluster.start_worker("w2", concurrency=1)
    eventually(lambda: cluster.ledger.runs()[job] == 2, PATIENCE_S)
    cluster.ledger.say("retry now")
    frozen.thaw()
    assert frozen.wait() == EXIT_DECLARED_DEAD
    cluster.all_succeed([job])
    cluster.nothing_is_left()
    assert 3 <= cluster.ledger.runs()[job] <= 4
