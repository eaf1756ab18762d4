"""Chords whose body was never sent: because the worker of their last header died just before, or because Redis was away
just then.

Celery's Redis backend lets one run claim a chord, that which counts the last header, before it sends the body. The
claim of a run that was killed there lives on for longer than the job takes to run again; the next run would find the
chord claimed, and nobody would send the body. Here a claim bears the task id of its header, so that a run which follows
a death takes back what its own job had claimed.

And Celery takes a connection that breaks between the claim and the body for an error of the chord: the body is marked
as failed and never runs. Here what a chord asks of Redis waits until Redis is back. All of it may be asked twice but
the claim: who asks for that again is told that it is taken, by himself.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import wraps
from typing import Any
from uuid import uuid4

import redis
from celery.backends import redis as celery_redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from dispatcher.worker.patches.forced import PUBLISH_TRIES

_header: ContextVar[str] = ContextVar("header", default="")
"""Task id of the header that is being counted."""


class _Claim:
    """Stands in for the UUID that Celery makes a claim from."""

    def __init__(self) -> None:
        self.hex = _header.get() + uuid4().hex


def keep_chords() -> None:
    """Have every Redis result backend of this process, and of the pool that it forks, take back such claims. May be
    called again.
    """
    counted = celery_redis.RedisBackend.on_chord_part_return
    if hasattr(counted, "__wrapped__"):
        return

    @wraps(counted)
    def on_chord_part_return(self: Any, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> Any:
        if not request.group or not request.id:
            return None
        prefix = f"{request.id}/"
        if (getattr(request, "delivery_info", None) or {}).get("redelivered"):
            claim = self.get_key_for_group(request.group, ".c")
            # Nobody else claims in between: all headers have been counted, and this is the only run of this one.
            if (self.ensure(self.client.get, (claim,)) or b"").startswith(prefix.encode()):
                self.ensure(self.client.delete, (claim,))
        token = _header.set(prefix)
        try:
            return counted(_waiting(self), request, state, result, *args, **kwargs)
        finally:
            _header.reset(token)

    celery_redis.RedisBackend.on_chord_part_return = on_chord_part_return
    celery_redis.uuid4 = _Claim


def _waiting(backend: Any) -> Any:
    """The same backend over a client that waits for Redis."""
    client = backend.__dict__.get("_waiting_client")
    if client is None:
        client = backend._create_client(**backend.connparams)
        errors = (redis.ConnectionError, redis.TimeoutError)
        client.connection_pool.connection_kwargs["retry"] = Retry(ExponentialBackoff(cap=1, base=0.05), PUBLISH_TRIES, errors)
        backend.__dict__["_waiting_client"] = client
    count = backend._chord_part_return_script

    def count_and_claim(*, keys: list[Any], args: list[Any], client: redis.Redis) -> Any:
        ready, more, size, claimed = count(keys=keys, args=args, client=client)
        is_last = size is not None and not claimed and ready == int(size) + int(more or 0)
        if is_last and client.get(keys[-1]) == args[-1].encode():
            claimed = 1  # by this very call, whose first answer was lost
        return ready, more, size, claimed

    twin = object.__new__(type(backend))
    twin.__dict__.update(backend.__dict__, client=client, _chord_part_return_script=count_and_claim)
    return twin
