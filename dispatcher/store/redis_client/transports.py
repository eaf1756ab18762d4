"""Which of kombu's transports jobs can be dispatched from."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis


def own_transport(connection: Any) -> str | None:
    """Why nothing can be dispatched from a kombu ``connection`` that reaches Redis, but not by kombu's own transport;
    ``None`` if that is not so.
    """
    try:
        kind = connection.get_transport_cls()
    except (KeyError, ImportError, AttributeError):  # no transport at all: Celery says so
        return None
    if issubclass(kind, kombu_redis.Transport) or getattr(kind, "driver_type", "") != "redis":
        return None
    return (
        f"this app's broker is Redis by another transport, {kind.__module__}:{kind.__qualname__}, which keeps its messages where no "
        "dispatcher looks: use kombu's own; remove broker_transport, and let broker_url begin with redis://, rediss:// or sentinel://"
    )
