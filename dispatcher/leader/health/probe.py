"""Sends probes: plain Celery messages of the task ``dispatcher.probe``, leased straight to one worker, past lanes and ejection."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.probing import Probing
from dispatcher.store.leader.dispatch_store import DispatchStore

EXPIRES_MS = 3_600_000
"""Should one ever end up in a plain queue, Celery drops it after that. Far more than clocks differ."""


class Prober:
    """Asks :class:`Probing` whom to probe; that reads the outcome from what workers tell with their beats."""

    def __init__(self, store: DispatchStore, probing: Probing) -> None:
        self._store = store
        self._probing = probing

    def step(self, workers: Sequence[WorkerView], now_ms: int, elapsed_ms: int) -> int:
        """How many were sent."""
        sent = 0
        for worker in self._probing.due(workers, now_ms, elapsed_ms):
            lane = lane_name(Lane(min(worker.ingress, default="dispatch"), PROBE_TASK, "default", 0, 0))
            if self._store.assign_probe(worker.epoch, lane=lane, window=worker.concurrency, message=probe_message(now_ms)):
                self._probing.sent(worker.epoch, now_ms)
                sent += 1
        return sent


def probe_message(now_ms: int) -> bytes:
    """One Celery message, field for field as kombu writes it."""
    task_id = str(uuid4())
    body = msgspec.json.encode([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    expires = datetime.fromtimestamp((now_ms + EXPIRES_MS) / 1000, UTC).isoformat()
    headers: dict[str, Any] = {
        "lang": "py", "task": PROBE_TASK, "id": task_id, "shadow": None, "eta": None, "expires": expires, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None, "argsrepr": "()",
        "kwargsrepr": "{}", "origin": "dispatcher", "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None,
        "stamps": {},
    }  # fmt: skip
    properties = {
        "correlation_id": task_id, "reply_to": task_id, "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": ""},
        "priority": 0, "body_encoding": "base64", "delivery_tag": str(uuid4()),
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "body": b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
