"""Real workers whose pool cannot keep a time limit: they say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.worker_harness import Cell, log_lines, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_says_that_it_keeps_no_time_limits(cell: Cell, pool: str) -> None:
    """When it starts, of the app's tasks that have one; and of a job that brings one, once, which runs to its end."""
    worker = cell.spawn(pool=pool, concurrency=1)
    assert log_lines(worker, rf"WARNING.* time limits are not enforced with -P {pool}: .* also of .*endless")
    for job in cell.send("work", 0.3, count=2, time_limit=0.1):
        assert job.get()
    assert eventually(lambda: log_lines(worker, "a job of work has a time limit, which is not enforced")) != []
    assert len(log_lines(worker, "a job of work has a time limit")) == 1


def test_a_worker_with_processes_keeps_them(cell: Cell) -> None:
    """And says nothing."""
    worker = cell.spawn(concurrency=1)
    (job,) = cell.send("work", 30.0, time_limit=0.5)
    assert eventually(lambda: job.state == "FAILURE", 20)
    assert not log_lines(worker, "not enforced")
