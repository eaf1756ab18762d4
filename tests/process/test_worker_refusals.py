"""Real workers that Redis refuses what they need, for as long as nobody changes it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.store.operator.admin_store import AdminStore
from tests.conftest import MakeRedis
from tests.eventually import eventually
from tests.worker_harness import Cell, WorkerProcess, log_lines, open_cell

BINDING = "_kombu.binding.dispatch"


@pytest.fixture
def cell(make_redis: MakeRedis, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(make_redis().url(), tmp_path) as opened:
        yield opened


def shown(cell: Cell) -> dict[str, Any]:
    """The worker as ``status --json`` shows it."""
    workers = [worker for worker in AdminStore(cell.client, cell.keys).status()["workers"] if worker["state"] not in ("left", "dead")]
    assert len(workers) == 1
    return workers[0]


def is_refused(cell: Cell, *words: str) -> bool:
    """``status`` says so, with these words of Redis' sentence."""
    worker = shown(cell)
    assert worker["state"] == "refused"
    return all(word in worker["refused"] for word in words)


def tries(worker: WorkerProcess) -> int:
    return len(log_lines(worker, "Redis refuses what this worker needs"))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_is_refused_at_its_start_says_so_and_ends(cell: Cell, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in Redis' own words; it tries a few times and ends with an error, as a stock worker does at once."""
    monkeypatch.setenv("TEST_REFUSED_MAX_S", "3")
    cell.client.zadd(BINDING, {"x": 1})
    worker = cell.spawn(pool=pool, concurrency=1, ready=False)
    eventually(lambda: is_refused(cell, "WRONGTYPE"), 20, worker.output)
    assert worker.wait(30) == 1
    assert log_lines(worker, "Redis refuses what this worker needs, trying again in .* WRONGTYPE Operation")
    assert log_lines(worker, "Redis has refused this worker for .* WRONGTYPE Operation")
    assert tries(worker) < 8


def test_a_worker_that_is_refused_for_a_while_goes_on(cell: Cell) -> None:
    """Once the key is gone it is ready, and jobs run."""
    cell.client.zadd(BINDING, {"x": 1})
    worker = cell.spawn(concurrency=1, ready=False)
    eventually(lambda: is_refused(cell, "WRONGTYPE"), 20, worker.output)
    cell.client.delete(BINDING)
    assert cell.send("work")[0].get(20)
    eventually(lambda: shown(cell)["state"] == "ready", 20, worker.output)


def test_a_refused_worker_that_is_told_to_stop_ends_in_order(cell: Cell) -> None:
    """Also while it waits for its next try; the cell forgets it at once."""
    cell.client.zadd(BINDING, {"x": 1})
    worker = cell.spawn(concurrency=1, ready=False)
    eventually(lambda: is_refused(cell, "WRONGTYPE"), 20, worker.output)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert cell.epoch_of(worker.name) is None


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_running_worker_that_loses_a_right_shows_it_and_gets_it_back(cell: Cell, pool: str) -> None:
    """``status`` has Redis' sentence; the job that runs runs on, once; with the right back the worker takes jobs."""
    worker = cell.spawn(pool=pool, concurrency=1)
    epoch = cell.epoch_of(worker.name)
    (running,) = cell.send("work", 3.0)
    eventually(cell.ledger.started)
    cell.client.execute_command("ACL", "SETUSER", "default", "-brpop")

    eventually(lambda: is_refused(cell, "NOPERM", "brpop"), 15, worker.output)
    cell.client.execute_command("ACL", "SETUSER", "default", "+brpop")
    assert running.get(20)
    assert cell.send("work")[0].get(20)
    eventually(lambda: shown(cell)["state"] == "ready", 20, worker.output)
    assert set(cell.runs().values()) == {1}
    assert cell.epoch_of(worker.name) == epoch
