"""What becomes of jobs that were taken together when handing one of them to Celery fails, without Redis."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from dispatcher.core.returns.ending import GiveBack
from dispatcher.worker.leasing.transport import LeaseChannelMixin
from dispatcher.worker.life.held import Held
from tests.messages import message
from tests.unit.worker.test_lease_keeper import ENTRY


class Keeper:
    """Takes three jobs at once, and remembers how they end."""

    paused = False
    revoked_at = None

    def __init__(self) -> None:
        self.returned: list[GiveBack] = []

    def take(self, lease_id: bytes) -> list[tuple[str, Held]]:
        return [(f"e.{at}", Held(message(f"id{at}"), ENTRY)) for at in (1, 2, 3)]

    def give_back(self, lease: GiveBack) -> None:
        self.returned.append(lease)


def deliver(fails: dict[str, Exception]) -> tuple[list[str], list[GiveBack], Exception | None]:
    """Task ids that Celery got, what was given back, and what was raised, where delivering those of ``fails`` fails."""
    got: list[str] = []

    def callback(payload: Any) -> None:
        task_id = payload["headers"]["id"]
        if task_id in fails:
            raise fails[task_id]
        got.append(task_id)

    keeper = Keeper()
    channel: Any = LeaseChannelMixin()
    channel.connection = SimpleNamespace(_callbacks={"wq": callback})
    channel.life = SimpleNamespace(
        keeper=keeper, queue_name="wq", revokes=SimpleNamespace(heed=lambda *_: None), is_reserved=lambda _: False,
        end_badly=lambda name, cause, _: keeper.give_back(GiveBack(name, "crashes", reason=cause.value)),
    )  # fmt: skip
    try:
        channel._deliver_lease(b"e.1")
    except redis.RedisError as exc:
        return got, keeper.returned, exc
    return got, keeper.returned, None


def test_all_that_were_taken_are_handed_over_in_order() -> None:
    """Nothing goes back."""
    assert deliver({}) == (["id1", "id2", "id3"], [], None)


def test_one_that_cannot_be_delivered_holds_up_no_other() -> None:
    """Its own fault: it alone goes back."""
    fault = [GiveBack("e.1", "crashes", reason="delivery_failed")]
    assert deliver({"id1": json.JSONDecodeError("", "", 0)}) == (["id2", "id3"], fault, None)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_when_the_connection_is_lost_on_the_way_those_behind_go_back(at: int) -> None:
    """Celery has not heard of them, and would never end them."""
    lost = redis.ConnectionError("lost")
    got, returned, raised = deliver({f"id{at}": lost})
    assert got == [f"id{n}" for n in range(1, at)]
    assert returned == [GiveBack.uncounted(f"e.{n}") for n in range(at, 4)]
    assert raised is lost
