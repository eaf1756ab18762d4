"""store_retry: a retry's state never replaces a result that its caller has not seen."""

from __future__ import annotations

import pytest
import redis

from tests.lua.cell import Cell, nothing_written

RESULT = "celery-task-meta-job"


def store(cell: Cell, seen: bytes, ttl_s: int = 60) -> int:
    return int(cell.scripts("store_retry", [RESULT], [seen, b"retry", ttl_s]))


def test_over_nothing_and_over_what_was_seen(cell: Cell) -> None:
    """The retry is stored, for as long as results are kept, and whoever waits for the result is told."""
    with cell.client.pubsub() as listener:
        listener.subscribe(RESULT)
        assert listener.get_message(timeout=5)
        assert store(cell, b"") == 1
        told = listener.get_message(timeout=5)
    assert told is not None
    assert told["data"] == cell.client.get(RESULT) == b"retry"
    assert 0 < cell.client.ttl(RESULT) <= 60
    cell.client.set(RESULT, b"started")
    assert store(cell, b"started", ttl_s=0) == 1
    assert cell.client.ttl(RESULT) == -1


@pytest.mark.parametrize("seen", [b"", b"started"])
def test_over_what_was_not_seen(cell: Cell, seen: bytes) -> None:
    """REFUSED: the next run has stored its result meanwhile."""
    cell.client.set(RESULT, b"success")

    with nothing_written(cell):
        assert store(cell, seen) == 0


def test_a_result_of_the_wrong_type(cell: Cell) -> None:
    """REFUSED: the caller is told."""
    cell.client.rpush(RESULT, b"a list")

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        store(cell, b"")
