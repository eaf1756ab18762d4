"""Real workers, and their pool processes, that die, freeze and thaw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from kombu import Exchange, Queue

from dispatcher.worker.leasing.celery_host import EXIT_DECLARED_DEAD
from tests.eventually import eventually
from tests.interpreters import ROOT
from tests.unsendable import Deadly, Unpicklable
from tests.worker_harness import Cell, Sent, WorkerProcess, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


def children(pid: int) -> list[int]:
    """Pool processes of a worker."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_killed_worker_loses_nothing_and_only_what_ran_is_repeated(cell: Cell, pool: str) -> None:
    """SIGKILL of a worker with running and queued jobs: all are run, only those that ran are run twice, its pool dies with it."""
    worker = cell.spawn(pool=pool, concurrency=2)
    cell.send("work", 0.7, count=8)
    eventually(lambda: len(cell.ledger.started()) == 2)
    running = set(cell.ledger.started())
    pids = children(worker.pid)
    worker.signal(signal.SIGKILL)
    worker.wait()
    eventually(lambda: all(is_gone(pid) for pid in pids))
    cell.spawn("w2", pool="threads", concurrency=8)
    eventually(lambda: len(set(cell.ledger.ended())) == 8, 15)
    eventually(cell.no_leases)
    assert {job for job, runs in cell.runs().items() if runs > 1} <= running


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_killed_between_result_and_ack_has_its_job_run_once_more(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """SIGKILL of a worker after its task ended and the result was stored, before the ack: another worker runs the job, once, and
    nothing is left of it but its result.
    """
    monkeypatch.setenv("TEST_DIES_BEFORE_ACK", "1")
    dying = cell.spawn(pool=pool, concurrency=1)
    epoch = cell.epoch_of(dying.name)
    monkeypatch.delenv("TEST_DIES_BEFORE_ACK")
    [job] = cell.send("work")
    assert dying.wait() == -signal.SIGKILL
    assert cell.ledger.ended() == [job.id]
    assert job.state == "SUCCESS"
    assert cell.client.hlen(cell.keys.messages) == 1  # what an ack removes
    other = cell.spawn("w2", pool=pool, concurrency=1)

    def nothing_is_left() -> bool:
        assert cell.ledger.ended() == [job.id, job.id]
        assert cell.client.hlen(cell.keys.messages) == 0
        assert not cell.client.exists(cell.keys.leases(epoch), cell.keys.taken(epoch), cell.keys.worker_queue(epoch))
        assert cell.waiting() == 0
        return cell.no_leases()

    eventually(nothing_is_left, 20, other.output)
    assert cell.runs() == {job.id: 2}
    assert cell.ledger.redelivered() == [False, True]
    assert job.state == "SUCCESS"
    assert cell.dead_letters() == {}
    assert other.lives


def test_a_job_that_kills_its_process_is_counted_and_buried(cell: Cell) -> None:
    """A pool process that dies takes its job back to the line, counted in the job's frame, until the limit: then it is a dead
    letter, and the worker has lived on.
    """
    worker = cell.spawn(concurrency=1)
    [result] = cell.send("die")
    [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
    assert letter["reason"] == "process_died"
    assert cell.runs() == {result.id: 3}
    assert cell.ledger.redelivered() == [False, True, True]
    eventually(cell.no_leases)
    cell.send("work")
    eventually(cell.ledger.ended)
    assert worker.lives


@pytest.mark.parametrize("task", ["work", "limited"])
@pytest.mark.parametrize(("value", "reason"), [(Unpicklable(), "delivery_failed"), (Deadly(), "process_died")])
def test_a_job_that_no_pool_can_begin_is_counted_and_buried(cell: Cell, value: object, reason: str, task: str) -> None:
    """The worker reads it, and fails to write it to a process, or the process dies that reads it: whether the worker starts it at once
    or by a timer, it is a dead letter after the limit, never runs, and takes no slot and no neighbour with it.
    """
    worker = cell.spawn(concurrency=2)
    neighbours = cell.send("work", 0.2, count=6)
    cell.send(task, headers={"unsendable": value})
    neighbours += cell.send("work", 0.2, count=6)
    [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
    assert letter["reason"] == reason
    eventually(lambda: all(neighbour.state == "SUCCESS" for neighbour in neighbours), 20, worker.output)
    assert cell.runs() == dict.fromkeys((neighbour.id for neighbour in neighbours), 1)
    both_slots = cell.send("work", 1.0, count=2)
    eventually(lambda: {job.id for job in both_slots} <= set(cell.ledger.started()) - set(cell.ledger.ended()), 20, worker.output)
    eventually(cell.no_leases)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_job_is_counted_though_the_connection_breaks_as_its_process_dies() -> None:
    """The pool is told of the process once it has lost the connection: it has not forgotten the job meanwhile."""
    ran = subprocess.run([sys.executable, "-m", "tests.process.flushed_pool"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "Worker exited prematurely: signal 9 (SIGKILL) Job: 0.\n", ran.stderr


def goes_on(cell: Cell, worker: WorkerProcess) -> None:
    """The worker lives on, runs the next job, and owes nothing then."""
    [next_] = cell.send("work")
    eventually(lambda: next_.state == "SUCCESS", 40, worker.output)
    eventually(cell.no_leases)
    assert worker.lives
    assert cell.runs()[next_.id] == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_runs_out_of_memory_has_failed(cell: Cell, pool: str) -> None:
    """MemoryError, for which Celery stops the worker, is a failure like another: the next job runs on the same worker."""
    worker = cell.spawn(pool=pool, concurrency=1)
    [greedy] = cell.send("greedy")
    goes_on(cell, worker)
    assert greedy.get()["exc_type"] == "MemoryError"
    assert cell.runs()[greedy.id] == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_ends_its_process_is_counted_and_buried(cell: Cell, pool: str) -> None:
    """``sys.exit()`` in a task, with threads and in the loop as in a process: counted, buried at the limit, and the worker lives on."""
    worker = cell.spawn(pool=pool, concurrency=1)
    [leaves] = cell.send("leave")
    [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
    assert letter["reason"] == "process_died"
    assert cell.runs() == {leaves.id: 3}
    goes_on(cell, worker)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_a_hook_raises_ends_the_lease(cell: Cell, pool: str) -> None:
    """``after_return`` rejects the job, with requeue and then without: it runs twice, and its worker goes on."""
    worker = cell.spawn(pool=pool, concurrency=1)
    [hooked] = cell.send("hook")
    eventually(lambda: cell.runs() == {hooked.id: 2} and cell.no_leases(), 40, worker.output)
    goes_on(cell, worker)
    assert cell.runs()[hooked.id] == 2


@pytest.mark.parametrize(("task", "runs", "reason"), [("misdirected", 3, "ending_failed"), ("misdirected_once", 1, "at_most_once")])
def test_a_retry_that_can_never_be_sent_ends(cell: Cell, task: str, runs: int, reason: str) -> None:
    """Not lost, and not run for ever: counted, and buried at the limit; a job that must not run again at once."""
    cell.client.set("no-list", "a string")
    worker = cell.spawn(concurrency=1)
    [sent] = cell.send(task)
    [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
    assert (letter["reason"], cell.runs()) == (reason, {sent.id: runs})
    goes_on(cell, worker)
    assert cell.runs()[sent.id] == runs


@pytest.fixture
def exchange() -> Exchange:
    """A named exchange, of its own for each test: kombu binds nothing twice in one process."""
    return Exchange(f"named-{uuid4()}", type="direct")


def binding_of(exchange: Exchange) -> str:
    """The key where kombu looks up which queues the exchange is bound to."""
    return f"_kombu.binding.{exchange.name}"


def bind(cell: Cell, exchange: Exchange, queue: str) -> None:
    """Declare the exchange, the queue, and that it gets what is published to the exchange."""
    with cell.app.connection_for_write() as connection:
        Queue(queue, exchange, routing_key="jobs").bind(connection.default_channel).declare()


def send_through(cell: Cell, exchange: Exchange, task: str) -> Sent:
    """A job whose producer binds ``dispatch`` to the exchange and publishes to that; the dispatcher has admitted it."""
    bind(cell, exchange, "dispatch")
    assert cell.client.scard(binding_of(exchange)) == 1
    sent = cell.app.send_task(task, (), exchange=exchange.name, routing_key="jobs", declare=[])
    [message] = eventually(lambda: cell.client.hvals(cell.keys.messages))
    assert json.loads(message)["properties"]["delivery_info"]["exchange"] == exchange.name
    return Sent(cell.client, sent.id)


def is_buried_after_three_runs(cell: Cell, job: Sent) -> bool:
    """It was counted each time that it came back, became a dead letter, and nothing else is left of it."""
    assert [letter["reason"] for letter in cell.dead_letters().values()] == ["process_died"]
    assert cell.runs() == {job.id: 3}
    assert cell.ledger.redelivered() == [False, True, True]
    assert cell.waiting() == 0
    return cell.no_leases()


def test_a_job_of_a_named_exchange_whose_binding_is_gone_is_counted_and_buried(cell: Cell, exchange: Exchange) -> None:
    """A job came through a named exchange, and nothing is bound to that any more when its process dies: it comes back all the same,
    counted, until the limit: then it is a dead letter, not lost.
    """
    job = send_through(cell, exchange, "die")
    assert cell.client.delete(binding_of(exchange)) == 1
    worker = cell.spawn(concurrency=1)
    eventually(lambda: is_buried_after_three_runs(cell, job), 40, worker.output)
    assert not cell.client.exists(binding_of(exchange))
    assert worker.lives


def test_a_job_that_comes_back_does_not_go_to_what_else_its_exchange_is_bound_to(cell: Cell, exchange: Exchange) -> None:
    """A job came through a named exchange that by now is bound to a second queue: given back when its process dies, it goes to its
    own line only.
    """
    job = send_through(cell, exchange, "die")
    bind(cell, exchange, "other")
    assert cell.client.scard(binding_of(exchange)) == 2
    worker = cell.spawn(concurrency=1)
    eventually(lambda: is_buried_after_three_runs(cell, job), 40, worker.output)
    assert cell.client.scard(binding_of(exchange)) == 2
    assert cell.client.llen("other") == 0
    assert worker.lives


def test_a_task_that_says_acks_late_false_is_never_run_again(cell: Cell) -> None:
    """An explicit ``acks_late=False`` means at most once: its job is leased while it runs, and buried when its process dies."""
    worker = cell.spawn(concurrency=1)
    [result] = cell.send("pay")
    [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
    assert letter["reason"] == "at_most_once"
    assert cell.runs() == {result.id: 1}
    eventually(cell.no_leases)


def test_a_job_past_its_hard_limit_is_counted_where_its_task_wants_it_back(redis_url: str, tmp_path: Path) -> None:
    """With ``acks_on_failure_or_timeout=False`` a job past its hard time limit comes back, a limited number of times."""
    with open_cell(redis_url, tmp_path, attempts_max=2) as cell:
        worker = cell.spawn(concurrency=1)
        [result] = cell.send("endless")
        [letter] = eventually(lambda: list(cell.dead_letters().values()), 40, worker.output)
        assert letter["reason"] == "time_limit"
        assert cell.runs() == {result.id: 2}
        eventually(cell.no_leases)


def test_a_parent_that_freezes_while_its_child_runs_kills_it_when_it_thaws(cell: Cell) -> None:
    """The process that was declared dead does not live on as if nothing had happened: it ends with its pool, and what it would
    have acked changes nothing.
    """
    frozen = cell.spawn(concurrency=1)
    epoch = cell.epoch_of(frozen.name)
    cell.send("work", 4)
    eventually(cell.ledger.started)
    [child] = children(frozen.pid)
    frozen.signal(signal.SIGSTOP)
    eventually(lambda: cell.client.exists(cell.keys.dead(epoch)))
    eventually(lambda: cell.waiting() == 1)
    frozen.signal(signal.SIGCONT)
    assert frozen.wait() == EXIT_DECLARED_DEAD
    eventually(lambda: is_gone(child))
    cell.spawn("w2")
    eventually(lambda: len(cell.ledger.ended()) == 1 and cell.no_leases(), 15)


def test_a_job_that_was_not_begun_before_a_freeze_is_not_begun_after_it(cell: Cell) -> None:
    """A job is on its way to a pool process when the worker freezes, for longer than a lease lives: another worker runs it, and on thawing
    the pool process, though it wakes before its parent has learned anything, does not.
    """
    frozen = cell.spawn(concurrency=1)
    epoch = cell.epoch_of(frozen.name)
    [child] = children(frozen.pid)
    os.kill(child, signal.SIGSTOP)
    [job] = cell.send("work")
    eventually(lambda: cell.client.hget(cell.keys.worker(epoch), "held") == "1")
    frozen.signal(signal.SIGSTOP)
    cell.spawn("w2")
    eventually(lambda: cell.ledger.ended() == [job.id], 30)
    os.kill(child, signal.SIGCONT)
    time.sleep(0.5)  # in which it would begin the job
    frozen.signal(signal.SIGCONT)
    assert frozen.wait() == EXIT_DECLARED_DEAD
    eventually(lambda: is_gone(child))
    eventually(cell.no_leases)
    assert cell.runs() == {job.id: 1}


def test_a_job_longer_than_every_timeout_runs_once(redis_url: str, tmp_path: Path) -> None:
    """A live worker's job is never run twice, however long: longer than lease_ttl_s and than kombu's visibility timeout."""
    with open_cell(redis_url, tmp_path) as cell:
        os.environ["TEST_VISIBILITY_TIMEOUT"] = "1"
        try:
            cell.spawn("w1", concurrency=1)
            cell.spawn("w2", pool="solo", concurrency=1)
        finally:
            del os.environ["TEST_VISIBILITY_TIMEOUT"]
        cell.send("work", 4, count=2)
        eventually(lambda: len(cell.ledger.ended()) == 2, 15)
        eventually(cell.no_leases)
        assert set(cell.runs().values()) == {1}
