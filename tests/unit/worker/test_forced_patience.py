"""Which errors of a result backend a worker waits out."""

from __future__ import annotations

import pytest
import redis
from celery import Celery

from dispatcher.worker.patches.forced import force_patience

PIPELINE = 'Command # 1 (SETEX celery-task-meta-1 86400 {{"result": "OOM NOREPLICAS"}}) of pipeline caused error: {}'


@pytest.fixture(scope="module")
def backend():
    force_patience()
    return Celery(backend="redis://localhost:1/0", set_as_current=False).backend


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError(PIPELINE.format("MISCONF Redis is configured to save RDB snapshots")),
        redis.exceptions.ReadOnlyError("READONLY You can't write against a read only replica."),
        redis.ConnectionError("away"),
        redis.TimeoutError("away"),
    ],
)
def test_a_refusal_that_will_end_is_waited_out(backend, error: Exception) -> None:
    """The job ran: its result must not be lost because Redis takes none for now."""
    assert backend.exception_safe_to_retry(error)


@pytest.mark.parametrize("error", [redis.ResponseError(PIPELINE.format("WRONGTYPE Operation against a key")), ValueError("a bug")])
def test_what_will_not_end_is_not_waited_for(backend, error: Exception) -> None:
    """It would hold up the worker for ever, whatever words the result itself has."""
    assert not backend.exception_safe_to_retry(error)
