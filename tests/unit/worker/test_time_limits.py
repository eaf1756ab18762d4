"""What a worker says of the time limits that it cannot keep."""

from __future__ import annotations

import logging

import pytest
from celery import Celery

from dispatcher.worker import time_limits
from dispatcher.worker.time_limits import unkept_limits, warn_of_job


def nothing() -> None:
    pass


def app_with(**limits: dict[str, float]) -> Celery:
    app = Celery("limits", set_as_current=False)
    for name, limit in limits.items():
        app.task(name=name, shared=False, **limit)(nothing)
    app.finalize()
    return app


def test_processes_keep_time_limits() -> None:
    """So nothing is said."""
    assert unkept_limits("prefork", app_with(hard={"time_limit": 1}), (5, None)) is None


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_limit_that_is_not_kept_is_a_warning(pool: str) -> None:
    """Hard or soft, of a task or of all of them; with the way out. Without any, the same is only information."""
    level, text = unkept_limits(pool, app_with(hard={"time_limit": 1}, soft={"soft_time_limit": 1}, free={}), (None, None))
    assert level == logging.WARNING
    assert text == (
        f"time limits are not enforced with -P {pool}: a job runs as long as it takes, also of hard, soft; "
        "choose -P prefork where a limit must hold"
    )
    for of_worker in ((5, None), (None, 5)):
        level, text = unkept_limits(pool, app_with(free={}), of_worker)
        assert (level, "also of every task" in text) == (logging.WARNING, True)
    level, text = unkept_limits(pool, app_with(free={}), (None, None))
    assert (level, text.startswith("time limits are not enforced")) == (logging.INFO, True)


def test_many_tasks_are_counted() -> None:
    """A log line names a few."""
    _, text = unkept_limits("threads", app_with(**{f"t{i}": {"time_limit": 1} for i in range(9)}), ())
    assert "t0, t1, t2, t3, t4 and 4 more" in text


def test_a_job_s_own_limit_is_warned_of_once_a_task(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A producer may send one with each of thousands."""
    monkeypatch.setattr(time_limits, "_warned", set())
    for task in ("a", "a", "b"):
        warn_of_job(task, "threads")
    assert [record.args for record in caplog.records] == [("a", "threads"), ("b", "threads")]
