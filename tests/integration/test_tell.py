"""What the leader tells: why each lane's jobs wait, and lanes that no worker may serve. Real Redis, a clock moved by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.events import LaneRoutable, LaneUnroutable
from dispatcher.leader.telling import waiting
from dispatcher.store.leader.leader_view import EXPIRES_MS, LeaderView, read_leader_view
from dispatcher.store.operator.admin_store import AdminStore
from tests.integration.stage import Stage


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    one = Stage(redis_url, unroutable_after_s=30.0, models=("chat", "other"))
    yield one
    one.close()


def later(stage: Stage, span_ms: int = waiting.PUBLISH_MS) -> None:
    """Time passes, and the dispatcher looks."""
    stage.clock.now_ms += span_ms
    stage.step()


def ask(stage: Stage, model: str) -> dict[str, Any]:
    return {"headers": {"dispatch": {"model": model}}}


def status(stage: Stage) -> dict[str, Any]:
    return AdminStore(stage.text, stage.keys, ("dispatch",)).status()


def view(stage: Stage) -> LeaderView:
    found = read_leader_view(stage.text, stage.keys)
    assert found is not None
    return found


def test_status_says_why_jobs_wait(stage: Stage) -> None:
    """Per lane, in words and for programs; how many workers are kept from it by what, with an example."""
    stage.worker("a", models=("other",)).beat()
    stage.worker("b", tasks=("another.task",)).beat()
    stage.send(**ask(stage, "chat"))
    stage.send(9)
    stage.steps()
    later(stage)

    why = {lane["lane"].split("/")[2]: lane["why"] for lane in status(stage)["lanes"]}

    assert why["chat"]["reason"] == "unroutable"
    assert why["chat"]["text"] == "no worker may have it (1 × model, 1 × task)"
    assert why["chat"]["refusals"]["model"] == {"workers": 1, "example": "a@h: does not serve chat"}
    assert why["default"]["reason"] == "full"
    assert "full" in why["default"]["refusals"]
    shown = CliRunner().invoke(cli, ["--redis-url", stage.url, "status"]).stdout
    assert "no worker may have it (1 × model, 1 × task)" in shown


def test_what_a_leader_told_vanishes_with_it(stage: Stage) -> None:
    """It expires; and where nobody leads, an old word is not shown."""
    stage.send(1)
    stage.steps()
    later(stage)
    assert 0 < stage.text.pttl(stage.keys.leader_view) <= EXPIRES_MS
    assert status(stage)["lanes"][0]["why"]["text"] == "no worker may have it (there is none)"

    stage.dispatcher.resign()

    assert status(stage)["lanes"][0]["why"] is None


def test_it_is_written_when_it_changes_and_at_most_once_a_second(stage: Stage) -> None:
    """Nothing new, nothing written, but for what keeps it from expiring."""
    stage.steps()
    stage.text.delete(stage.keys.leader_view)
    later(stage, 999)
    assert not stage.text.exists(stage.keys.leader_view)
    later(stage, 1)
    assert not stage.text.exists(stage.keys.leader_view), "nothing has changed"

    stage.worker("a").beat()
    later(stage)
    assert list(view(stage).workers) == list(stage.workers)
    stage.text.delete(stage.keys.leader_view)
    later(stage, EXPIRES_MS // 2)
    assert stage.text.exists(stage.keys.leader_view)


def test_it_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand lanes the first are told, the unroutable before the others, and how many more there are."""
    monkeypatch.setattr(waiting, "HOLDS_MAX", 2)
    stage.worker("a").beat()
    stage.send(9)
    for tasks in range(3):
        stage.app.send_task(f"none.{tasks}")
    stage.steps()
    later(stage)

    told = view(stage)

    assert [hold.reason for hold in told.holds] == ["unroutable", "unroutable"]
    assert told.holds_left_out == 2


def test_an_alert_once_no_worker_may_have_a_lane_for_long(stage: Stage) -> None:
    """One event with why, then a count in `status`; one event when it is over. A moment without a worker is no alert."""
    stage.worker("a", models=("other",)).beat()
    stage.send(2, **ask(stage, "chat"))
    stage.steps()
    later(stage, 29_000)
    assert status(stage)["unroutable"] == 0

    later(stage, 2_000)
    later(stage, 2_000)

    (alert,) = [event for event in stage.events if isinstance(event, LaneUnroutable)]
    assert alert.depth == 2
    assert alert.refusals == ("1 × model: a@h: does not serve chat",)
    assert status(stage)["unroutable"] == 1
    assert status(stage)["lanes"][0]["why"]["unroutable_s"] == 33
    health = CliRunner().invoke(cli, ["--redis-url", stage.url, "health", "--json"])
    assert json.loads(health.stdout)["unroutable"] == 1

    stage.worker("b", models=("chat",)).beat()
    stage.steps()
    later(stage)
    assert [event.lane for event in stage.events if isinstance(event, LaneRoutable)] == [alert.lane]
    assert status(stage)["unroutable"] == 0


def test_one_alert_for_all_that_ask_the_same(stage: Stage) -> None:
    """A lane for each session, and none has a worker: one event says so, `status` counts lanes, and one event ends it."""
    stage.worker("a", models=("other",)).beat()
    for session in range(5):
        stage.send(headers={"dispatch": {"model": "chat", "session": f"user {session}"}})
    stage.steps()
    later(stage, 31_000)
    later(stage)

    (alert,) = [event for event in stage.events if isinstance(event, LaneUnroutable)]
    assert alert.depth == 5
    assert status(stage)["unroutable"] == len(status(stage)["lanes"]) > 1

    stage.worker("b", models=("chat",), concurrency=5).beat()
    stage.steps()
    later(stage)
    assert stage.kinds().count("LaneRoutable") == 1
    assert stage.kinds().count("LaneUnroutable") == 1


def test_a_lane_that_is_gone_is_no_alert(stage: Stage) -> None:
    """What was purged waits for nothing."""
    stage.send(2, **ask(stage, "chat"))
    stage.steps()
    AdminStore(stage.text, stage.keys, ("dispatch",)).emptying().purge()
    later(stage, 40_000)
    later(stage)

    assert not {"LaneUnroutable", "LaneRoutable"} & set(stage.kinds())
