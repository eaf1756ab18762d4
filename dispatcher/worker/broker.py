"""A worker's own way to the Redis that its consumer is connected to: same server, same credentials, same TLS, same
Sentinel.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.settings import Settings
from dispatcher.store.keys import Keys


def client_of(channel: Any, settings: Settings) -> redis.Redis:
    """A client beside the one of a kombu ``channel``. It does not retry: a retried script may have run twice."""
    timeout_s = min(5.0, settings.lease_ttl_s / 2)
    pool = channel._get_pool()
    # The app's limit is for its consumer's connections; and redis-py counts those that are closed, too.
    pool.max_connections = 2**31
    pool.connection_kwargs.update(
        decode_responses=True,
        encoding_errors="surrogateescape",
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        socket_timeout=timeout_s,
        health_check_interval=0,
    )
    if "path" not in pool.connection_kwargs:
        pool.connection_kwargs["socket_connect_timeout"] = timeout_s
    return redis.Redis(connection_pool=pool)


def keys_of(channel: Any, settings: Settings) -> Keys:
    """The keys of the cell as the broker's transport options shape them."""
    return Keys.of_broker(settings.cell, {name: getattr(channel, name) for name in ("global_keyprefix", "sep", "priority_steps")})
