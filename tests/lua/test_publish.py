"""publish: what a task sends is there once."""

from __future__ import annotations

import pytest
import redis

from tests.lua.cell import Cell, nothing_written

TTL_MS = 60_000


def publish(cell: Cell, number: int, message: bytes = b"message", *, sender: str = "one", queue: str = "dispatch") -> int:
    return int(cell.scripts("publish", [cell.keys.sent(sender), queue], [number, message, TTL_MS]))


def test_a_message_that_is_asked_for_again_is_there_once(cell: Cell) -> None:
    """REFUSED the second time, with nothing written; the next number is another message, though it says the same."""
    assert publish(cell, 1) == 1
    with nothing_written(cell):
        assert publish(cell, 1) == 0
    assert publish(cell, 2) == 1

    assert cell.ingress() == [b"message", b"message"]


def test_senders_and_queues_are_told_apart(cell: Cell) -> None:
    """An exchange may lead to several queues: one message, one number, each queue once."""
    assert [publish(cell, 1, sender=sender, queue=queue) for sender in ("one", "two") for queue in ("dispatch", "gpu")] == [1] * 4
    assert len(cell.ingress("gpu")) == 2


def test_what_a_sender_sent_is_forgotten_some_time(cell: Cell) -> None:
    """Its process may be gone for good."""
    publish(cell, 1)

    assert 0 < cell.client.pttl(cell.keys.sent("one")) <= TTL_MS


def test_a_queue_of_the_wrong_type(cell: Cell) -> None:
    """REFUSED: the sender is told, and may ask again."""
    cell.client.set("dispatch", "a string")

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        publish(cell, 1)
