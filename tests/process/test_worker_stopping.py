"""Real workers that are asked to stop: at once nothing new, what runs is finished, nothing is lost or run twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store.frame import parse_entry
from tests.eventually import eventually
from tests.worker_harness import Cell, log_lines, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_sigterm_loses_nothing_and_beats_until_the_last_job_ends(cell: Cell, pool: str) -> None:
    """A worker that finishes jobs for longer than the lease's time to live is not reaped: they run once. What it had not started
    is back in line at once, and it leaves no lease and no life behind.
    """
    worker = cell.spawn(pool=pool, concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 2.5, count=1)
    eventually(cell.ledger.started)
    cell.send("work", count=5)
    eventually(lambda: len(cell.leases(epoch)) > 1)
    worker.signal(signal.SIGTERM)
    if pool != "solo":  # a solo worker hears the signal; its loop runs the job
        eventually(lambda: len(cell.leases(epoch)) == 1, 1.5)
    assert worker.wait() == 0
    eventually(lambda: not cell.registrations())
    assert cell.client.get(cell.keys.dead(epoch)) == "goodbye"
    assert cell.leases() == []
    assert cell.waiting() == 5
    assert cell.ledger.ended() == cell.ledger.started()
    assert len(cell.ledger.started()) == 1


def test_jobs_in_flight_at_a_warm_stop_are_all_run_once(cell: Cell) -> None:
    """Workers stop and start under load: every job runs exactly once."""
    cell.send("work", 0.01, count=200)
    for turn in range(2):
        worker = cell.spawn(f"w{turn}", concurrency=3)
        eventually(lambda want=60 * (turn + 1): len(cell.ledger.started()) >= want, 20, worker.output)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    cell.spawn("last", concurrency=3)
    eventually(lambda: len(cell.ledger.ended()) == 200, 20)
    eventually(cell.no_leases)
    assert set(cell.runs().values()) == {1}


def test_a_cold_stop_gives_back_what_ran(cell: Cell) -> None:
    """SIGQUIT kills what runs; its jobs are back in line at once, as nobody's fault, not after the lease's time to live."""
    worker = cell.spawn(concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 30)
    eventually(cell.ledger.started)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert cell.client.get(cell.keys.dead(epoch)) == "goodbye"
    [lane] = eventually(lambda: cell.client.keys(cell.keys.lane("*")))
    [frame] = cell.client.lrange(lane, 0, -1)
    entry = parse_entry(frame)
    assert (entry.deaths, entry.rejects) == (0, 1)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_waits_for_its_rate_limit_is_back_in_line_as_it_was(cell: Cell, pool: str) -> None:
    """A warm stop ends what runs. What never began is no attempt, and no dead letter though its task must not run twice."""
    worker = cell.spawn(pool=pool, concurrency=1 if pool == "solo" else 3)
    epoch = cell.epoch_of(worker.name)
    first, *_ = cell.send("toll", count=3)
    eventually(lambda: first.state == "SUCCESS" and cell.client.hlen(cell.keys.taken(epoch)) > 0, message=worker.output)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    eventually(lambda: cell.waiting() == 2, message=worker.output)
    assert cell.dead_letters() == {}
    frames = [parse_entry(frame) for lane in cell.client.keys(cell.keys.lane("*")) for frame in cell.client.lrange(lane, 0, -1)]
    assert [one.deaths + one.rejects for one in frames] == [0, 0]


LOOP_BREAKER = """
from celery.worker.control import control_command

def fail():
    raise ValueError("a bug in the loop")

@control_command()
def break_loop(state):
    state.consumer.hub.call_soon(fail)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_unrecoverable_error_ends_like_a_stop(cell: Cell, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    """The consumer's loop raises what Celery does not recover from: what was not started is back in line while the last job still runs,
    uncounted; that job is finished, and the worker says goodbye and exits with 1 (scenario 43).
    """
    (cell.folder / "loop_breaker.py").write_text(LOOP_BREAKER)
    monkeypatch.setenv("PYTHONPATH", str(cell.folder), prepend=os.pathsep)
    worker = cell.spawn(pool=pool, concurrency=1, options=("-I", "loop_breaker"))
    epoch = cell.epoch_of(worker.name)
    [running] = cell.send("work", 3.0)
    eventually(cell.ledger.started)
    cell.send("work", count=5)
    eventually(lambda: len(cell.leases(epoch)) > 1)
    cell.app.control.broadcast("break_loop", destination=[worker.name])
    eventually(lambda: len(cell.leases(epoch)) == 1 and cell.waiting() == 5, message=worker.output)
    assert cell.ledger.ended() == []
    frames = [frame for lane in cell.client.keys(cell.keys.lane("*")) for frame in cell.client.lrange(lane, 0, -1)]
    assert [frame[38:44] for frame in frames] == ["000000"] * 5

    assert worker.wait() == 1
    assert log_lines(worker, "Unrecoverable error: ValueError")
    assert cell.client.get(cell.keys.dead(epoch)) == "goodbye"
    assert running.state == "SUCCESS"
    assert cell.leases() == []
    monkeypatch.undo()
    cell.spawn("w2")
    eventually(lambda: len(cell.ledger.ended()) == 6)
    eventually(cell.no_leases)
    assert set(cell.runs().values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_drained_worker_finishes_and_exits_by_itself(cell: Cell, pool: str) -> None:
    """Drained from outside with "exit": nothing new starts there, its unstarted jobs go elsewhere, and it exits with 0."""
    worker = cell.spawn(pool=pool, concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 1.0)
    eventually(cell.ledger.started)
    cell.send("work", count=4)
    cell.drain(epoch, "exit")
    assert worker.wait() == 0
    assert len(cell.ledger.ended()) == 1
    eventually(lambda: cell.waiting() == 4)
    cell.spawn("w2")
    eventually(lambda: len(cell.ledger.ended()) == 5)
    assert set(cell.runs().values()) == {1}


def test_a_worker_drained_to_keep_stays_and_comes_back(cell: Cell) -> None:
    """Drained with "keep" it finishes and stays, consuming nothing; undrained it consumes again."""
    worker = cell.spawn(concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 0.5)
    eventually(cell.ledger.started)
    cell.drain(epoch, "keep")
    eventually(lambda: log_lines(worker, "draining: nothing new"))
    eventually(cell.ledger.ended)
    cell.lease(epoch, cell.raw("work"))
    eventually(lambda: cell.waiting() == 1 and cell.no_leases())
    assert worker.lives
    cell.drain(epoch, "")
    eventually(lambda: len(cell.ledger.ended()) == 2)
    assert set(cell.runs().values()) == {1}


def test_remote_controls_shutdown_drains_too(cell: Cell) -> None:
    """A worker that Celery's own ``control.shutdown`` stops gives its unstarted jobs back while it finishes what runs."""
    worker = cell.spawn(pool="threads", concurrency=1)
    epoch = cell.epoch_of(worker.name)
    cell.send("work", 2.0)
    eventually(cell.ledger.started)
    cell.send("work", count=3)
    eventually(lambda: len(cell.leases(epoch)) > 1)
    cell.app.control.shutdown(destination=[worker.name])
    eventually(lambda: len(cell.leases(epoch)) == 1 and cell.waiting() == 3)
    assert cell.ledger.ended() == []
    assert worker.wait() == 0
    assert len(cell.ledger.ended()) == 1


def test_the_command_line_says_what_a_worker_is(cell: Cell) -> None:
    """``--weight``, ``--models``, ``--label`` and ``-Q`` reach the registration; jobs of the named queues run."""
    options = ("--weight", "4", "--models", "a,b", "--label", "region=eu", "--label", "gpu=a100", "-Q", "gpu,celery")
    worker = cell.spawn(pool="solo", options=options)
    said = cell.registrations()[cell.epoch_of(worker.name)]
    assert (said["weight"], said["models"]) == (4.0, ["a", "b"])
    assert said["labels"] == {"region": "eu", "gpu": "a100"}
    assert said["ingress"] == ["gpu", "celery"]
    assert (said["pid"], said["concurrency"], said["at_most_once"]) == (worker.pid, 1, ["misdirected_once", "pay", "toll"])
    for queue in ("gpu", "celery", "dispatch"):
        cell.send("work", queue=queue)
    eventually(lambda: len(cell.ledger.ended()) == 2)
    eventually(cell.no_leases)


def test_a_weight_that_is_none_is_refused_in_one_sentence(cell: Cell) -> None:
    """A worker started with nonsense says what is wrong, and exits."""
    worker = cell.spawn(options=("--weight", "-1"), ready=False)
    assert worker.wait() == 1
    assert "it must be a number above 0" in worker.output()
    assert "Traceback" not in worker.output()
