"""Celery messages as they lie in Redis, good and broken, without a broker."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from typing import Any

TASK = "demo.job"


def envelope(
    task_id: str | None = None,
    *,
    task: str = TASK,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    embed: dict[str, Any] | None = None,
    dispatch: dict[str, Any] | None = None,
    **headers: Any,
) -> dict[str, Any]:
    """What kombu would write for ``send_task``, before it is made JSON; ``dispatch`` is our header, ``headers`` are more of Celery's."""
    task_id = task_id or str(uuid.uuid4())
    body = json.dumps([list(args), kwargs or {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **(embed or {})}])
    routing = {} if dispatch is None else {"dispatch": dispatch}
    return {
        "body": b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": task_id, "shadow": None, "eta": None, "expires": None, "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None,
            "argsrepr": repr(args), "kwargsrepr": repr(kwargs or {}), "origin": "gen1@test", "ignore_result": False, **routing, **headers,
        },
        "properties": {
            "correlation_id": task_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "dispatch"}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }  # fmt: skip


def message(task_id: str | None = None, **facts: Any) -> bytes:
    """:func:`envelope`, as the bytes in Redis."""
    return json.dumps(envelope(task_id, **facts)).encode()
