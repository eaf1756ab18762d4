"""A chord whose body was never sent, because the worker of its last header died just before: the header's next run sends it.

Celery's Redis backend lets one run claim a chord, that which counts the last header, before it sends the body. The claim of a run that
was killed there lives on for longer than the job takes to run again; the next run would find the chord claimed, and nobody would send
the body. Here a claim bears the task id of its header, so that a run which follows a death takes back what its own job had claimed.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import wraps
from typing import Any
from uuid import uuid4

from celery.backends import redis as celery_redis

_header: ContextVar[str] = ContextVar("header", default="")
"""Task id of the header that is being counted."""


class _Claim:
    """Stands in for the UUID that Celery makes a claim from."""

    def __init__(self) -> None:
        self.hex = _header.get() + uuid4().hex


def keep_chords() -> None:
    """Have every Redis result backend of this process, and of the pool that it forks, take back such claims. May be called again."""
    counted = celery_redis.RedisBackend.on_chord_part_return
    if hasattr(counted, "__wrapped__"):
        return

    @wraps(counted)
    def on_chord_part_return(self: Any, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> Any:
        if not request.group or not request.id:
            return None
        prefix = f"{request.id}/"
        if (request.delivery_info or {}).get("redelivered"):
            claim = self.get_key_for_group(request.group, ".c")
            # Nobody else claims in between: all headers have been counted, and this is the only run of this one.
            if (self.ensure(self.client.get, (claim,)) or b"").startswith(prefix.encode()):
                self.ensure(self.client.delete, (claim,))
        token = _header.set(prefix)
        try:
            return counted(self, request, state, result, *args, **kwargs)
        finally:
            _header.reset(token)

    celery_redis.RedisBackend.on_chord_part_return = on_chord_part_return
    celery_redis.uuid4 = _Claim
