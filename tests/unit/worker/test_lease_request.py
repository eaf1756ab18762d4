"""How a request ends its lease."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from celery.exceptions import Reject
from celery.worker.request import create_request_cls
from kombu.exceptions import OperationalError

from dispatcher.core.returns.ending import Cause
from dispatcher.worker.leasing.request import lease_request
from dispatcher.worker.life.held import Outcome


class CeleryRequest:
    """What of Celery's own a rejection goes through."""

    acknowledged = False
    task: Any = SimpleNamespace()

    def __init__(self, life: Mock) -> None:
        self._message = SimpleNamespace(delivery_tag="e.1", channel=SimpleNamespace(life=life))
        self.send_event = Mock()

    def on_failure(self: Any, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        self.reject(requeue=exc_info.exception.requeue)


def caused_by(cause: Exception) -> OperationalError:
    """As kombu says it."""
    error = OperationalError(str(cause))
    error.__cause__ = cause
    return error


REFUSED, READONLY = OperationalError("refused"), redis.ResponseError("READONLY")
AWAY = caused_by(redis.ConnectionError("away"))


@pytest.mark.parametrize("reason", [REFUSED, AWAY, READONLY])
def test_a_job_whose_retry_could_not_be_sent_goes_back_in_line(reason: Exception) -> None:
    """Celery rejects it for good, but Redis is at fault."""
    life = Mock()
    lease_request(CeleryRequest)(life).on_failure(SimpleNamespace(exception=Reject(reason, requeue=False)))
    [(lease_id, cause, _), _] = life.end_badly.call_args
    assert (lease_id, cause) == ("e.1", Cause.OUTAGE)
    life.keeper.ack.assert_not_called()


def test_what_a_task_itself_rejects_for_good_is_done_with() -> None:
    """As with Celery alone."""
    life = Mock()
    lease_request(CeleryRequest)(life).on_failure(SimpleNamespace(exception=Reject("as it said", requeue=False)))
    life.keeper.ack.assert_called_once_with("e.1", Outcome.FAILED)
    life.keeper.give_back.assert_not_called()
    life.end_badly.assert_not_called()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(ValueError("a bug"), Cause.ENDING_FAILED), (redis.ConnectionError("away"), Cause.OUTAGE)],
    ids=["the job's", "Redis'"],
)
def test_a_job_that_cannot_be_ended_goes_back_in_line(fault: Exception, cause: Cause) -> None:
    """Whatever Celery raises where it ends a job; counted and so buried at last, unless Redis was away."""
    life, task = Mock(), Mock(acks_late=True)
    made = create_request_cls(lease_request(CeleryRequest), task, Mock(), "h", None, task_ready=Mock(side_effect=fault), trace=Mock())
    made(life).on_success((False, "a result", 1.0))
    [(lease_id, said, _), _] = life.end_badly.call_args
    assert (lease_id, said) == ("e.1", cause)
    life.keeper.ack.assert_not_called()
