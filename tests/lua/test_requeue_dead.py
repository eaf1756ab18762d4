"""requeue_dead: a dead letter goes back as the message it was, or is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.lua.cell import Cell, nothing_written
from tests.messages import message


def end(cell: Cell, job: str, action: str, ingress: str = "dispatch") -> Any:
    keys = cell.keys
    return cell.scripts(
        "requeue_dead", [keys.dead_letters, keys.dead_reasons, keys.unsettled, keys.messages, ingress], [job, action]
    )


def bury(cell: Cell) -> tuple[str, bytes]:
    """A dead letter with an id: its number and its message."""
    raw = message(eta="tomorrow")
    cell.push(raw)
    cell.admit()
    return cell.text.zrange(cell.keys.dead_letters, -1, -1)[0], raw


def is_gone(cell: Cell, job: str) -> bool:
    keys = cell.keys
    return not (
        cell.text.zscore(keys.dead_letters, job) is not None
        or cell.text.hexists(keys.dead_reasons, job)
        or cell.text.sismember(keys.unsettled, job)
        or cell.text.hexists(keys.messages, job)
    )


def test_it_goes_to_the_back_of_its_queue_as_it_was(cell: Cell) -> None:
    """Byte for byte; nothing of it stays among the dead."""
    job, raw = bury(cell)
    other, _ = bury(cell)
    cell.push(ahead := message())

    assert end(cell, job, "requeue") == 1
    assert cell.ingress() == [ahead, raw]
    assert is_gone(cell, job)
    assert not is_gone(cell, other)


def test_purged_it_is_nowhere(cell: Cell) -> None:
    """Only on request."""
    job, _ = bury(cell)

    assert end(cell, job, "purge") == 1
    assert cell.ingress() == []
    assert is_gone(cell, job)


@pytest.mark.parametrize("action", ["requeue", "purge"])
def test_what_is_no_dead_letter_is_left_alone(cell: Cell, action: str) -> None:
    """REFUSED: unknown, done already, or a job that waits."""
    job, _ = bury(cell)
    end(cell, job, "purge")
    (waiting,) = cell.jobs(1)

    with nothing_written(cell):
        assert end(cell, job, action) == 0
        assert end(cell, waiting, action) == 0
        assert end(cell, "unknown", action) == 0


def test_a_queue_of_the_wrong_type_keeps_the_dead_letter(cell: Cell) -> None:
    """REFUSED: the copy comes before the remove."""
    job, _ = bury(cell)
    cell.client.set("wrong", "a string")

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        end(cell, job, "requeue", "wrong")
