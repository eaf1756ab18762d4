"""Can a chunk be sent? As a message that Redis takes, and that is to a worker what it was here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kombu import serialization

ANY_REDIS_TAKES: Final = 1024 * 1024
"""Bytes of a message. The limit of a server cannot be set lower."""
ENVELOPE_BYTES: Final = 64 * 1024
"""Room for all of a message but its body."""


def why_not_sent(argument: dict[str, Any], serializer: str, message_bytes_max: Callable[[], int]) -> str | None:
    """Why no worker could be sent this argument of a task, in words; ``None`` if it can be sent. ``message_bytes_max``
    is asked for the largest message that Redis takes, where that matters.

    A body is JSON, and not all JSON gets through Celery's: nesting or digits may be more than Python's reader takes,
    and an object of ``__type__`` and ``__value__`` alone becomes something else.
    """
    try:
        content, encoding, payload = serialization.dumps([argument], serializer)  # type: ignore[no-untyped-call]
        arrives = serialization.loads(payload, content, encoding, force=True)  # type: ignore[no-untyped-call]
        is_same = arrives == [argument]
    except Exception as exc:  # noqa: BLE001 (a serializer may be the app's own)
        cause = exc.__cause__ or exc.__context__ or exc
        return f"Celery's {serializer} cannot carry it: {type(cause).__name__}: {cause}"
    if not is_same:
        part = "a part of it, such as an object of __type__ and __value__ alone,"
        return f"Celery's {serializer} takes {part} for a typed value"
    size = len(payload) * 4 // 3 + ENVELOPE_BYTES  # in base64
    if size > ANY_REDIS_TAKES and size > message_bytes_max():
        return f"its message would have {size} bytes, and Redis takes {message_bytes_max()} at most"
    return None
