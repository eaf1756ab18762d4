"""Tests of an app through a real dispatcher: ``cd examples/own_app && pytest``."""

from __future__ import annotations

import pytest
from celery import chord
from proj import add, total

from dispatcher import JobDead, job_headers
from dispatcher.testing import Cell

pytestmark = pytest.mark.usefixtures("dispatcher_cell")


def test_jobs_and_canvas_answer() -> None:
    assert add.delay(2, 3).get(timeout=10) == 5
    assert chord((add.s(n, n) for n in range(3)), total.s()).delay().get(timeout=10) == 6


def test_a_model_that_nobody_serves_is_refused() -> None:
    """In production it would be a dead letter, too."""
    with pytest.raises(JobDead):
        add.apply_async((2, 3), headers=job_headers(model="chatt")).get(timeout=10)


def test_a_job_waits_where_it_must_not_run(dispatcher_cell: Cell) -> None:
    """The only worker is in the EU."""
    add.apply_async((2, 3), headers=job_headers(requires={"region": "us"}))
    add.delay(2, 3).get(timeout=10)
    (lane,) = dispatcher_cell.status()["lanes"]
    assert lane["depth"] == 1
