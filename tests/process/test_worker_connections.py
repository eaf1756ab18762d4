"""Real workers whose connections break, and whose Redis goes away: nothing is killed, nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import chord

from tests.conftest import MakeRedis
from tests.eventually import eventually
from tests.process.test_worker_deaths import children
from tests.worker_harness import Cell, Sent, WorkerProcess, log_lines, open_cell

POOLS = ["prefork", "threads", "solo"]


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


def ran_once(cell: Cell, count: int) -> bool:
    """``count`` jobs ended, each began once."""
    ended = cell.ledger.ended()
    unended = {job: Sent(cell.client, job).state for job in cell.ledger.started() if job not in ended}
    assert len(ended) == count, f"{unended}, leases {cell.leases()}, {cell.waiting()} waiting, dead {cell.dead_letters()}"
    assert set(cell.runs().values()) <= {1}
    return True


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_that_runs_over_a_broken_connection_runs_once(cell: Cell, pool: str) -> None:
    """Every connection is killed twice while a job runs: the worker lives, the job runs once, its lease is freed."""
    worker = cell.spawn(pool=pool, concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 1.0 if pool == "solo" else 6.0)
    eventually(cell.ledger.started)
    if pool == "solo":  # its loop runs the job, and sees nothing of its connections meanwhile
        cell.kill_connections()
    else:
        for _ in range(2):
            break_and_wait(cell, worker)
        assert cell.ledger.ended() == []
    eventually(lambda: ran_once(cell, 1), 15, worker.output)
    eventually(cell.no_leases)
    cell.send("work")
    eventually(lambda: ran_once(cell, 2), 15, worker.output)
    assert worker.lives
    assert cell.epoch_of(worker.name) == epoch


def break_and_wait(cell: Cell, worker: WorkerProcess) -> None:
    """Kill every connection, those that subscribe too, and wait until the worker has made new ones and listens to remote control,
    which is the last thing that it does before it looks for jobs.
    """
    connected = len(log_lines(worker, "Connected to"))
    newest = max(int(one["id"]) for one in cell.client.client_list())
    cell.kill_connections()
    cell.client.client_kill_filter(_type="pubsub")

    def is_back() -> bool:
        assert len(log_lines(worker, "Connected to")) > connected
        return any(int(one["id"]) > newest and int(one["psub"]) for one in cell.client.client_list(_type="pubsub"))

    eventually(is_back, 20, worker.output)


def test_a_job_written_to_a_pool_process_and_not_accepted_survives_broken_connections(cell: Cell) -> None:
    """Every connection breaks twice while a job lies in the pipe of a pool process that is frozen: once that thaws it runs the job,
    once, the lease is freed, and the next job runs too.
    """
    worker = cell.spawn(concurrency=1)
    epoch = cell.epoch_of(worker.name)
    [before] = cell.send("work")
    eventually(lambda: cell.ledger.ended() == [before.id] and cell.no_leases(), 15, worker.output)
    [child] = children(worker.pid)
    os.kill(child, signal.SIGSTOP)
    [job] = cell.send("work")

    def is_in_doubt() -> bool:
        assert cell.client.hmget(cell.keys.worker(epoch), "held", "running") == ["1", "0"]
        assert len(cell.leases(epoch)) == 1
        assert cell.client.hkeys(cell.keys.taken(epoch)) == cell.leases(epoch)
        return bool(log_lines(worker, rf"Task work\[{job.id}\] received"))

    eventually(is_in_doubt, 15, worker.output)
    for _ in range(2):
        break_and_wait(cell, worker)
        assert is_in_doubt()
        assert children(worker.pid) == [child]
    os.kill(child, signal.SIGCONT)
    eventually(lambda: cell.ledger.ended() == [before.id, job.id] and cell.no_leases(), 15, worker.output)
    [after] = cell.send("work")
    eventually(lambda: after.state == "SUCCESS" and cell.no_leases(), 15, worker.output)
    assert cell.runs() == {before.id: 1, job.id: 1, after.id: 1}
    assert cell.waiting() == 0
    assert cell.dead_letters() == {}
    assert cell.epoch_of(worker.name) == epoch
    assert worker.lives


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_lease_is_left_and_no_job_runs_twice_over_connection_kills_under_load(cell: Cell, pool: str) -> None:
    """16 kills of all connections over 300 short jobs, some of them large: reserved, half-written and unaccepted jobs included."""
    worker = cell.spawn(pool=pool, concurrency=4)
    for number in range(300):
        cell.app.send_task("work", (0.02,), argsrepr="x" * 200_000 if number % 10 == 0 else "x")
    for kills in range(16):
        eventually(lambda done=kills * 12: len(cell.ledger.started()) >= done, 30, worker.output)
        cell.kill_connections()
        time.sleep(0.05)  # so that the kills hit different moments of the reconnect
    eventually(lambda: ran_once(cell, 300), 40, worker.output)
    eventually(cell.no_leases, 10, worker.output)
    assert worker.lives


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_rate_limited_jobs_survive_a_broken_connection(cell: Cell, pool: str) -> None:
    """Jobs that wait in this worker for their rate limit are neither dropped nor run twice by a reconnect."""
    worker = cell.spawn(pool=pool, concurrency=4)
    taken = cell.keys.taken(cell.epoch_of(worker.name))
    cell.send("limited", count=6)
    eventually(lambda: cell.ledger.started() and cell.client.hlen(taken) >= 3)  # one may run, so two wait here, not in Redis
    break_and_wait(cell, worker)  # without the kill of what subscribes, a worker that has no credit would notice nothing
    eventually(lambda: len(cell.ledger.started()) == 6, 20, worker.output)
    eventually(cell.no_leases)
    assert set(cell.runs().values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_an_outage_of_redis_kills_and_repeats_nothing(make_redis: MakeRedis, tmp_path: Path, pool: str) -> None:
    """Redis ends and comes back while jobs run, away for longer than the lease's time to live: each runs once, the acks that could
    not be sent arrive, and the worker goes on.
    """
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    with open_cell(server.url(), tmp_path) as cell:
        worker = cell.spawn(pool=pool, concurrency=2)
        epoch = cell.epoch_of(worker.name)
        # These must not need Redis while it is away, so not the task that writes to the ledger.
        cell.app.send_task("quiet", (1.0,), ignore_result=True)
        eventually(lambda: cell.client.hlen(cell.keys.taken(epoch)) == 1)
        server.stop()
        time.sleep(2.0)  # an outage that is longer than the job, and than lease_ttl_s
        server.start()
        eventually(cell.no_leases, 20, worker.output)
        cell.send("work", count=3)
        eventually(lambda: ran_once(cell, 3), 20, worker.output)
        eventually(cell.no_leases, 10, worker.output)
        assert cell.epoch_of(worker.name) == epoch
        assert worker.lives
        assert cell.client.hget(cell.keys.worker(epoch), "done") in {"1", "2", "3", "4"}


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_what_tasks_send_waits_for_redis(make_redis: MakeRedis, tmp_path: Path, pool: str) -> None:
    """Redis is away when a task retries, when the first half of a chain ends, and when a chord's last header does, for longer than
    Celery tries to send by default: the retry, the second half and the body run all the same, once each.
    """
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    with open_cell(server.url(), tmp_path) as cell:
        worker = cell.spawn(pool=pool, concurrency=4)
        app = cell.make_app(attached=False, result_backend_thread_safe=True)
        app.backend.on_task_call = app.backend.remove_pending_result = lambda *_: None  # it waits for no result
        [retried] = cell.send("retry", 1.0)
        goes_on = (app.signature("work", (1.0,)) | app.signature("after")).apply_async().id
        body = chord([app.signature("work", (1.0,))] * 2, app=app)(app.signature("after")).id
        eventually(lambda: len(cell.ledger.started()) == 4, 15, worker.output)
        server.stop()
        time.sleep(4.5)  # Celery's default gives up a second or so after the tasks, which take one
        server.start()
        eventually(lambda: len(cell.ledger.started()) == 7, 20, worker.output)
        eventually(cell.no_leases, 10, worker.output)
        assert cell.runs()[retried.id] == 2
        assert {goes_on, body} <= set(cell.ledger.ended())
        assert worker.lives


def test_error_replies_of_a_failover_do_not_end_a_worker(make_redis: MakeRedis, tmp_path: Path) -> None:
    """A primary that becomes a replica answers UNBLOCKED and READONLY: the worker reconnects until it is a primary again."""
    server = make_redis()
    with open_cell(server.url(), tmp_path) as cell:
        worker = cell.spawn(pool="threads")
        cell.send("work", 0.8)
        eventually(cell.ledger.started)
        with redis.Redis(unix_socket_path=str(server.socket)) as admin:
            admin.execute_command("REPLICAOF", "127.0.0.1", "1")
            time.sleep(0.5)
            admin.execute_command("REPLICAOF", "NO", "ONE")
        eventually(lambda: cell.runs() and cell.no_leases(), 20, worker.output)
        cell.send("work")
        eventually(lambda: len(cell.runs()) == 2 and cell.no_leases(), 20, worker.output)
        assert worker.lives
        assert set(cell.runs().values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_redis_that_hangs_loses_and_repeats_nothing(make_redis: MakeRedis, tmp_path: Path, pool: str) -> None:
    """Redis stops answering in the middle of takes and acks, longer than every timeout, three times: what is in doubt is settled
    by the beats, each job runs once, no lease is left.
    """
    server = make_redis()
    with open_cell(server.url(), tmp_path) as cell:
        worker = cell.spawn(pool=pool, concurrency=4)
        for _ in range(150):
            cell.app.send_task("work", (0.02,), ignore_result=True)
        for hang in range(3):
            eventually(lambda done=20 + hang * 40: len(cell.ledger.started()) >= done, 30, worker.output)
            server.freeze()
            time.sleep(1.2)  # a worker's socket timeout is half of lease_ttl_s, here 0.75 s
            server.thaw()
        eventually(lambda: ran_once(cell, 150), 40, worker.output)
        eventually(cell.no_leases, 10, worker.output)
        assert worker.lives
