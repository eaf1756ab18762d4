"""Real workers, and their pool processes, that die, freeze and thaw."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.worker.host import EXIT_DECLARED_DEAD
from tests.support import eventually
from tests.worker_harness import Cell, open_cell


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
