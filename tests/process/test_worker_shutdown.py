"""Every way to stop a worker, in every pool: it ends in its time, what it gives back is back at once, and only what was cut runs again.

Each test stops a prefork worker, one with threads and a solo one, all of them full, with more jobs waiting.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dispatcher.store.frame import parse_entry
from tests.eventually import eventually
from tests.worker_harness import Cell, WorkerProcess, open_cell

POOLS = {"prefork": 2, "threads": 2, "solo": 1}
SLOTS = sum(POOLS.values())
WAITING = 8
ENDS_S = 30.0
"""A liveness limit: nothing here takes seconds but what is told to."""


def full_workers(cell: Cell, *seconds: float) -> list[WorkerProcess]:
    """A worker of each pool; together they run these jobs, one a slot, and more wait."""
    workers = [cell.spawn(pool, pool=pool, concurrency=count, ready=False) for pool, count in POOLS.items()]
    for worker in workers:
        cell.wait_registered(worker)
    for each in seconds:
        cell.send("work", each)
    eventually(lambda: len(cell.ledger.started()) == SLOTS, ENDS_S)
    cell.send("work", count=WAITING)
    eventually(lambda: not cell.client.exists("dispatch"))
    return workers


def all_is_back(cell: Cell, epochs: list[str], cut: int) -> None:
    """What was cut, and what waited, is in line; only what was cut is known to have begun, and it counts as nobody's fault. All lives
    ended with a goodbye.
    """
    eventually(lambda: cell.waiting() == cut + WAITING, ENDS_S)
    assert [cell.client.get(cell.keys.dead(epoch)) for epoch in epochs] == ["goodbye"] * len(epochs)
    frames = [parse_entry(frame) for lane in cell.client.keys(cell.keys.lane("*")) for frame in cell.client.lrange(lane, 0, -1)]
    assert sorted((one.deaths, one.rejects) for one in frames) == [(0, 0)] * WAITING + [(0, 1)] * cut
    assert len(cell.ledger.started()) == SLOTS, "something was started after the signal"
    eventually(cell.no_leases)


@pytest.mark.parametrize(("sig", "grace_s"), [(signal.SIGQUIT, 0.0), (signal.SIGTERM, 1.0)], ids=["cold", "warm, out of time"])
def test_a_worker_ends_though_its_jobs_do_not(redis_url: str, tmp_path: Path, sig: signal.Signals, grace_s: float) -> None:
    """SIGQUIT, and SIGTERM with ``shutdown_grace_s``, end jobs of minutes in a thread and in the loop too."""
    with open_cell(redis_url, tmp_path, shutdown_grace_s=grace_s) as cell:
        workers = full_workers(cell, *[600.0] * SLOTS)
        epochs = [cell.epoch_of(worker.name) for worker in workers]
        for worker in workers:
            worker.signal(sig)
        assert {worker.wait(ENDS_S) for worker in workers} <= {0, 1}  # Celery's cold shutdown of processes says 0
        all_is_back(cell, epochs, SLOTS)


def test_a_soft_shutdown_lets_short_jobs_end(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``worker_soft_shutdown_timeout``: what ends in that time has run, once; the rest is back in line."""
    monkeypatch.setenv("TEST_SOFT_SHUTDOWN_S", "3")
    with open_cell(redis_url, tmp_path) as cell:
        workers = full_workers(cell, 600, 0.7, 0.7, 0.7, 600)
        epochs = [cell.epoch_of(worker.name) for worker in workers]
        for worker in workers:
            worker.signal(signal.SIGQUIT)
        assert {worker.wait(ENDS_S) for worker in workers} <= {0, 1}
        assert len(cell.ledger.ended()) == 3
        all_is_back(cell, epochs, SLOTS - 3)
