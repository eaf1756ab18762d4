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
        self.messages = [message("id1"), message("id2"), message("id3")]

    def take(self, lease_id: bytes) -> list[tuple[str, Held]]:
        return [(f"e.{at}", Held(raw, ENTRY)) for at, raw in enumerate(self.messages, 1)]

    def give_back(self, lease: GiveBack) -> None:
        self.returned.append(lease)


def deliver(fails: dict[str, Exception], *messages: bytes) -> tuple[list[str], list[GiveBack], Exception | None]:
    """Task ids that Celery got, what was given back, and what was raised, where delivering those of ``fails`` fails.

    ``messages``: those that were taken, instead of three good ones.
    """
    got: list[str] = []

    def callback(payload: Any) -> None:
        task_id = payload["headers"]["id"]
        if task_id in fails:
            raise fails[task_id]
        got.append(task_id)

    keeper = Keeper()
    keeper.messages = [*messages] or keeper.messages
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


def test_a_message_that_kombus_json_does_not_read_here_may_be_read_elsewhere() -> None:
    """A type that the app registered in newer code than this worker's: as a pickle of a class that it lacks."""
    unknown = message("id2", mine={"__type__": "of newer code", "__value__": 1})
    got, returned, raised = deliver({}, message("id1"), unknown, message("id3"))
    assert (got, raised) == (["id1", "id3"], None)
    assert returned == [GiveBack("e.2", "crashes", reason="unreadable")]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_when_the_connection_is_lost_on_the_way_those_behind_go_back(at: int) -> None:
    """Celery has not heard of them, and would never end them."""
    lost = redis.ConnectionError("lost")
    got, returned, raised = deliver({f"id{at}": lost})
    assert got == [f"id{n}" for n in range(1, at)]
    assert returned == [GiveBack.uncounted(f"e.{n}") for n in range(at, 4)]
    assert raised is lost
