"""Workers are killed with SIGKILL: nothing is lost, only what they were running is repeated, and their leases are back in time."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass

import pytest

from dispatcher.settings import Settings
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, Entry, MakeCluster, Process, freeze_with_a_popped_job

SLACK_MS = 1000
"""What the promise allows on top of lease_ttl_s."""


@dataclass(frozen=True, slots=True)
class Death:
    """One SIGKILL."""

    worker: str
    held: int
    recovery_ms: int


def kill_one(cluster: Cluster, victim: Process) -> Death:
    """SIGKILL a worker that holds running and queued jobs; how long it took until the last of its leases was back.

    Both instants are Redis' clock: just after the process was gone, and when the reap had ended.
    """
    epoch = cluster.epoch(victim)

    def is_loaded() -> bool:  # also one that has just begun, and is given its first jobs one by one
        is_running = any(entry.pid and entry.worker.startswith(victim.name) for entry in cluster.ledger.running())
        return is_running and cluster.queued(epoch) > 0 and cluster.leases(epoch) > 2

    eventually(is_loaded, PATIENCE_S, victim.tail)
    killed_at_ms = cluster.now_ms()
    victim.kill()
    held = cluster.leases(epoch)
    gone_at_ms = eventually(lambda: cluster.gone_at_ms(epoch), PATIENCE_S, cluster.processes[0].tail)
    assert cluster.leases(epoch) == cluster.queued(epoch) == cluster.taken(epoch) == 0
    return Death(victim.name, held, gone_at_ms - killed_at_ms)


def last_of_each_process(cluster: Cluster, killed: set[str]) -> set[str]:
    """What the killed workers were running: the job that each of their pool processes began last."""
    last: dict[tuple[str, int], Entry] = {}
    for entry in cluster.ledger.starts():
        if entry.worker in killed:
            last[entry.worker, entry.pid] = entry
    return {entry.job for entry in last.values()}


def kill_under_load(cluster: Cluster, *, kills: int, jobs_each: int) -> list[Death]:
    """``kills`` workers die in turn, each replaced, while ``kills × jobs_each`` jobs go through; all that is promised holds."""
    cluster.start_dispatcher()
    workers = cluster.start_workers("w0", "w1", "w2")
    jobs: list[str] = []
    deaths: list[Death] = []
    for number in range(kills):
        jobs += cluster.send("nap", 0.15, count=jobs_each)
        deaths.append(kill_one(cluster, workers.pop(0)))
        workers.append(cluster.start_worker(f"w{number + 3}", ready=False))
    cluster.all_succeed(jobs, 120)
    cluster.nothing_is_left()
    runs = cluster.ledger.runs()
    assert runs.keys() == set(jobs)
    assert cluster.ledger.ended() == set(jobs)
    repeated = {job for job, count in runs.items() if count > 1}
    were_running = last_of_each_process(cluster, {f"{death.worker}@promise" for death in deaths})
    assert repeated <= were_running
    print(f"{len(jobs)} jobs, {kills} kills, {len(were_running)} running when killed, {len(repeated)} run again, "
          f"recovery in ms: {sorted(death.recovery_ms for death in deaths)}")  # fmt: skip
    assert all(death.held for death in deaths), deaths
    return deaths


@pytest.mark.timeout(240)
def test_killed_workers_lose_nothing_and_repeat_only_what_they_ran(make_cluster: MakeCluster) -> None:
    """4 kills over 400 jobs: 0 lost, only jobs that the dead were running are run again, leases back within lease_ttl_s + 1 s."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    deaths = kill_under_load(cluster, kills=4, jobs_each=100)
    assert max(death.recovery_ms for death in deaths) <= 3000 + SLACK_MS


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_over_two_thousand_jobs(make_cluster: MakeCluster) -> None:
    """The same, 20 kills over 2,000 jobs."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    deaths = kill_under_load(cluster, kills=20, jobs_each=100)
    assert max(death.recovery_ms for death in deaths) <= 3000 + SLACK_MS


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_with_default_settings(make_cluster: MakeCluster) -> None:
    """The same with the default lease_ttl_s and heartbeat_s, 5 kills over 500 jobs."""
    deaths = kill_under_load(make_cluster(), kills=5, jobs_each=100)
    assert max(death.recovery_ms for death in deaths) <= Settings().lease_ttl_s * 1000 + SLACK_MS


def waiting_ids(cluster: Cluster) -> list[str]:
    """Task ids in the one lane there is, the next to be assigned first."""
    [lane] = cluster.client.keys(cluster.keys.lane("*"))
    frames = cluster.client.lrange(lane, 0, -1)
    return [json.loads(cluster.client.hget(cluster.keys.messages, frame[:16]))["headers"]["id"] for frame in frames]


def test_leases_of_a_killed_worker_go_back_to_the_head_of_their_lane(make_cluster: MakeCluster) -> None:
    """With the default settings: the only worker dies with running and queued jobs; they are ahead of what waited behind them, in their
    old order, within lease_ttl_s + 1 s.
    """
    cluster = make_cluster()
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1")
    jobs = [job for number in range(12) for job in cluster.send("nap", 60, argsrepr=str(number))]
    epoch = cluster.epoch(worker)
    eventually(lambda: len(cluster.ledger.running()) == 2 and cluster.queued(epoch) > 0)
    running = {entry.job for entry in cluster.ledger.running()}
    death = kill_one(cluster, worker)
    print(f"recovery in ms: {death.recovery_ms}")
    assert death.recovery_ms <= Settings().lease_ttl_s * 1000 + SLACK_MS
    assert waiting_ids(cluster) == jobs
    assert running == set(jobs[:2])


def test_a_job_in_the_socket_of_a_worker_that_dies_is_recovered(make_cluster: MakeCluster) -> None:
    """The pop window: Redis has popped the job's lease into the socket of a worker that never reads it. The job runs elsewhere, once."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    worker = cluster.start_worker("w1", concurrency=1)
    epoch = cluster.epoch(worker)
    jobs = freeze_with_a_popped_job(cluster, worker)
    assert cluster.taken(epoch) == 0
    worker.kill()
    cluster.start_worker("w2")
    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    cluster.each_ran_once(jobs)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGQUIT], ids=["dies", "leaves"])
@pytest.mark.parametrize("replaced", [False, True], ids=["retry", "replace"])
def test_a_worker_that_ends_between_a_retry_and_its_ack_makes_no_second_line(
    make_cluster: MakeCluster, replaced: bool, end: signal.Signals
) -> None:
    """The retry (or what replaced the task) was sent, so the try before it is not run again beside it."""
    cluster = make_cluster(lease_ttl_s=3, heartbeat_s=0.5)
    cluster.start_dispatcher()
    ends = cluster.start_worker("w1", concurrency=1)
    [job] = cluster.send("last_words", replaced, int(end))
    ends.wait()
    stays = cluster.start_worker("w2", concurrency=1)
    cluster.all_succeed([job])
    cluster.nothing_is_left()
    assert cluster.ledger.runs() == {job: 2}
    assert stays.exit_code is None
