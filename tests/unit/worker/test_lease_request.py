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

from dispatcher.store.worker.worker_store import GiveBack
from dispatcher.worker.leasing.request import lease_request
from dispatcher.worker.life.keeper import Outcome


class CeleryRequest:
    """What of Celery's own a rejection goes through."""

    acknowledged = False
    task: Any = SimpleNamespace()

    def __init__(self, keeper: Mock) -> None:
        self.life = SimpleNamespace(keeper=keeper)
        self._message = SimpleNamespace(delivery_tag="e.1", channel=SimpleNamespace(life=self.life))
        self.send_event = Mock()

    def on_failure(self: Any, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        self.reject(requeue=exc_info.exception.requeue)


def caused_by(cause: Exception) -> OperationalError:
    """As kombu says it."""
    error = OperationalError(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("reason", [OperationalError("refused"), caused_by(redis.ConnectionError("away")), redis.ResponseError("READONLY")])
def test_a_job_whose_retry_could_not_be_sent_goes_back_in_line(reason: Exception) -> None:
    """Celery rejects it for good; what the task itself rejects so is done with."""
    keeper = Mock()
    lease_request(CeleryRequest)(keeper).on_failure(SimpleNamespace(exception=Reject(reason, requeue=False)))
    [(lease, outcome), _] = keeper.give_back.call_args
    assert (lease.lease_id, lease.counter, outcome) == ("e.1", "rejects", Outcome.REJECTED)
    keeper.ack.assert_not_called()

    keeper = Mock()
    lease_request(CeleryRequest)(keeper).on_failure(SimpleNamespace(exception=Reject("as it said", requeue=False)))
    keeper.ack.assert_called_once_with("e.1", Outcome.FAILED)
    keeper.give_back.assert_not_called()


@pytest.mark.parametrize(
    ("fault", "counted"), [(ValueError("a bug"), True), (redis.ConnectionError("away"), False)], ids=["the job's", "Redis'"]
)
def test_a_job_that_cannot_be_ended_goes_back_in_line(fault: Exception, counted: bool) -> None:
    """Whatever Celery raises where it ends a job; counted and so buried at last, unless Redis was away."""
    keeper, task = Mock(), Mock(acks_late=True)
    made = create_request_cls(lease_request(CeleryRequest), task, Mock(), "h", None, task_ready=Mock(side_effect=fault), trace=Mock())
    request = made(keeper)
    request.life.crash = lambda lease_id, reason, detail: GiveBack(lease_id, "crashes", 3, reason, detail)
    request.on_success((False, "a result", 1.0))
    [(lease, *_), _] = keeper.give_back.call_args
    assert (lease.lease_id, lease.counter, lease.reason) == ("e.1", *(("crashes", "ending_failed") if counted else ("rejects", "")))
    keeper.ack.assert_not_called()
