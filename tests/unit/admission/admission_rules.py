"""A message read by the rules of a made-up cell, for tests of admission."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.utils.json import dumps

from dispatcher.core.admission.rules import Admission, Admitted, Refused
from tests.messages import TASK

NOW_MS = 1_700_000_000_000
REASONS = {
    "not_json", "too_large", "no_headers", "no_properties", "no_id", "no_task", "no_delivery_tag", "bad_body", "bad_header",
    "bad_timelimit", "bad_eta", "bad_expires", "content_refused", "unknown_model", "wrong_type",
}  # fmt: skip
"""All there are."""


def admission(**rules: Any) -> Admission:
    return Admission(**{"routes": {}, "default_cost_s": 1.0, **rules})


def read(raw: bytes, rules: Admission | None = None) -> Admitted | Refused:
    return (rules or admission()).read(raw, ingress="dispatch", step=3, now_ms=NOW_MS)


def make_app(task_protocol: int = 2) -> Celery:
    """Celery over kombu's transport that is a dict in memory."""
    made = Celery("admission", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(task_default_queue="dispatch", task_protocol=task_protocol)

    @made.task(name=TASK, shared=False)
    def job(*args: Any, **kwargs: Any) -> None:
        pass

    return made


def sent_by(app: Celery, send: Callable[[Any], Any]) -> list[bytes]:
    """What Redis would hold after ``send(task)``."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_purge("dispatch") if "dispatch" in channel.queues else None
        send(app.tasks[TASK])
        sent = []
        while channel._size("dispatch"):
            sent.append(dumps(channel._get("dispatch")).encode())
        return sent


def encoded(body: str) -> str:
    return b64encode(body.encode()).decode()
