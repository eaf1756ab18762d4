"""``dispatcher explain`` for each place a job can be in. Real Redis and dispatcher, workers played by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.leader.telling import decision_log, waiting
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.worker.revoke_store import RevokeStore, id_members, stamp_members
from tests.integration.stage import RESULT_DB, Stage
from tests.lua.cell import nothing_written
from tests.messages import TASK, message

Explain = Callable[[str], dict[str, Any]]
CHAT = {"headers": {"dispatch": {"model": "chat", "cost": 2.0}}}


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    one = Stage(redis_url, models=("chat", "other"), strategy="earliest_completion", window_extra=0)
    yield one
    one.close()


@pytest.fixture
def run(stage: Stage) -> Callable[..., Any]:
    backend = stage.url.rpartition("=")[0] + f"={RESULT_DB}"
    environ = {"DISPATCHER_RESULT_BACKEND": backend, "DISPATCHER_STRATEGY": "random"}  # the leader's word counts
    return lambda *args: CliRunner().invoke(cli, ["--redis-url", stage.url, "explain", *args], env=environ)


@pytest.fixture
def explain(run: Callable[..., Any]) -> Explain:
    return lambda job_id: json.loads(run(job_id, "--json").stdout)


def later(stage: Stage) -> None:
    """The leader has told what it sees, and written down what it did."""
    stage.clock.now_ms += max(waiting.PUBLISH_MS, decision_log.WRITE_MS)
    stage.step()


def test_a_job_that_waits(stage: Stage, explain: Explain, run: Callable[..., Any]) -> None:
    """Lane, place in it and why; every worker with its score and what that is made of, or what keeps it from the job."""
    stage.worker("fast", models=("chat",), weight=4.0).beat()
    stage.worker("slow", models=("chat",)).beat()
    stage.worker("other", models=("other",)).beat()
    leaving = stage.worker("leaving", models=("chat",))
    leaving.beat()
    leaving.store.drain()
    jobs = stage.send(5, **CHAT)
    stage.steps()
    later(stage)

    found = explain(jobs[4])

    assert (found["place"], found["before"], found["depth"]) == ("lane", 2, 3)
    assert found["why"] == "every worker that may have it is full (2 × full, 1 × draining, 1 × model)"
    assert found["strategy"] == "earliest_completion"
    assert found["cost_s"] == 2.0
    fast, slow, *refused = found["candidates"]
    assert (fast["worker"], fast["refused"], fast["terms"]) == ("fast@h", "full: 1 of 1 leases", {"run_ms": 500.0, "wait_ms": 500.0})
    assert fast["score"] == 1000.0
    assert (slow["worker"], slow["terms"], slow["speed"]) == ("slow@h", {"run_ms": 2000.0, "wait_ms": 2000.0}, 1.0)
    assert {one["worker"]: one["refused"] for one in refused} == {
        "leaving@h": "not_draining: draining", "other@h": "model: does not serve chat",
    }  # fmt: skip
    shown = run(jobs[4])
    assert shown.exit_code == 0
    assert "behind 2 of 3: every worker that may have it is full" in shown.stdout
    assert "run 500 ms wait 500 ms" in shown.stdout


def test_where_a_job_is_before_it_waits(stage: Stage, explain: Explain) -> None:
    """In the ingress, with what is before it, and why it is there; or scheduled, with when it is due."""
    first, second = stage.send(2)
    assert {key: explain(second)[key] for key in ("place", "before", "why", "job")} == {
        "place": "ingress", "before": 1, "why": "no dispatcher leads", "job": None,
    }  # fmt: skip
    (planned,) = stage.send(1, eta=datetime.now(UTC) + timedelta(minutes=10))
    stage.steps()

    found = explain(planned)

    assert found["place"] == "scheduled"
    assert 500 < found["due_in_s"] <= 600
    assert explain(first)["why"].startswith("no worker may have it")


def test_a_job_at_its_worker_and_after(stage: Stage, explain: Explain, run: Callable[..., Any]) -> None:
    """Leased, running, done: by whom, since when, and what was decided, also when nothing else is left of it."""
    worker = stage.worker("w1")
    worker.beat()
    stage.worker("other", models=("other",), tasks=("else",)).beat()
    (job,) = stage.send(1)
    stage.steps()
    later(stage)
    assert {key: explain(job)[key] for key in ("place", "worker")} == {"place": "leased", "worker": "w1@h"}

    taken = worker.take()
    found = explain(job)
    assert found["place"] == "running"
    assert found["running_s"] >= 0

    worker.end(taken)
    found = explain(job)
    assert found["place"] == "done"
    assert found["result"]["status"] == "SUCCESS"
    (decision,) = found["decisions"]
    assert (decision["worker"], decision["strategy"], decision["together_with"]) == ("w1@h", "earliest_completion", 0)
    assert decision["ranking"] == [{"worker": "w1@h", "score": 1000.0, "terms": {"run_ms": 1000.0}, "full": False}]
    assert decision["refused"]["task"]["workers"] == 1
    assert "it went to w1@h, by earliest_completion" in run(job).stdout


def test_every_turn_of_a_job_is_told(stage: Stage, explain: Explain) -> None:
    """A job that came back has as many decisions as it had workers, each with the right one, in order."""
    first = stage.worker("w1")
    first.beat()
    jobs = stage.send(3)
    stage.steps()
    first.take()
    first.store.goodbye()
    stage.steps()
    second = stage.worker("w2")
    second.beat()
    stage.steps()
    later(stage)

    assert [one["worker"] for one in explain(jobs[0])["decisions"]] == ["w1@h", "w2@h"]
    assert [one["worker"] for one in explain(jobs[1])["decisions"]] == []
    second.run_all()
    stage.steps()
    later(stage)
    assert [one["worker"] for one in explain(jobs[1])["decisions"]] == ["w2@h"]


def test_failed_and_revoked(stage: Stage, explain: Explain) -> None:
    """By the state that Celery stored; the text of the exception is there, results are not."""
    failed, revoked = stage.send(2)
    worker = stage.worker("w1", concurrency=2)
    worker.beat()
    stage.steps()
    for taken in (worker.take(), worker.take()):
        worker.store.ack([taken.lease_id])
    later(stage)
    assert explain(failed)["place"] == "ended", "nothing stored"

    stage.app.backend.store_result(failed, ValueError("a pity"), "FAILURE")
    stage.app.backend.mark_as_revoked(revoked, "because", store_result=True)

    assert explain(failed)["place"] == "failed"
    assert explain(failed)["result"]["detail"] == "ValueError: a pity"
    assert explain(revoked)["place"] == "revoked"


def test_a_revoke_is_told_wherever_the_job_is(stage: Stage, explain: Explain, run: Callable[..., Any]) -> None:
    """By its id or by a stamp, and what it means there; of a job that nobody revoked nothing is said."""
    revokes = RevokeStore(stage.text, stage.keys, kept_s=60)
    worker = stage.worker("good")
    (runs,) = stage.send()
    stage.steps()
    taken = worker.take()
    assert taken is not None
    (waits, other) = stage.send(2)
    stamped = stage.app.send_task(TASK, stamped_headers=["shop"], shop="7").id
    scheduled = stage.send(countdown=3_600)[0]
    stage.steps()
    (unread,) = stage.send()
    revokes.add(id_members([runs, waits, scheduled, unread, "gone"]) + stamp_members({"shop": "7"}))

    for job, said in (
        (runs, "a run that has begun ends as any other"), (waits, "will not run it"), (stamped, "will not run it"),
        (scheduled, "will not run it"), (unread, "will not run it"),
    ):  # fmt: skip
        assert explain(job)["revoked_s_ago"] < 60
        assert "it was revoked" in run(job).stdout
        assert said in run(job).stdout
    assert "it was revoked" in run("gone").stdout
    assert "revoked_s_ago" not in explain(other)
    assert "revoked" not in run(other).stdout


def test_a_dead_letter(stage: Stage, explain: Explain) -> None:
    """With its reason; by its number too, as `dead list` shows it."""
    (job,) = stage.send(1, headers={"dispatch": {"model": "never heard of"}})
    stage.steps()
    (letter,) = AdminStore(stage.text, stage.keys).dead_letters().list()

    found = explain(job)

    assert (found["place"], found["reason"]) == ("dead", "unknown_model")
    assert explain(letter.job)["job_id"] == job


def test_nothing_is_known(stage: Stage, run: Callable[..., Any]) -> None:
    """Exit code 1, and in words why that may be."""
    stage.steps()
    result = run("no-such-job")

    assert result.exit_code == 1
    assert "nothing is known of this job" in result.stdout


def test_a_job_older_than_the_log_is_found(stage: Stage, explain: Explain) -> None:
    """By its message: only what has ended needs the log."""
    stage.client.lpush("dispatch", message("custom id, with ü"))
    stage.steps()
    stage.text.delete(stage.keys.decisions)

    assert explain("custom id, with ü")["place"] == "lane"


def test_to_look_changes_nothing(stage: Stage, run: Callable[..., Any]) -> None:
    """Not a key, not its expiry."""
    stage.worker("w1").beat()
    jobs = stage.send(3)
    stage.steps()
    later(stage)

    class Seen:
        client = stage.client

    with nothing_written(Seen):  # type: ignore[arg-type]
        for job in jobs:
            assert run(job).exit_code == 0


def test_a_log_that_is_off(redis_url: str) -> None:
    """Nothing is written."""
    stage = Stage(redis_url, decisions_kept=0)
    stage.worker("w1").beat()
    stage.send(2)
    stage.steps()
    later(stage)

    assert not stage.text.exists(stage.keys.decisions)
    stage.close()
