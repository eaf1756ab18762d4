"""What cannot be a job becomes a dead letter with a reason, and whoever waits for its result is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from celery import chord
from celery.app.backends import by_url
from celery.exceptions import ChordError
from celery.result import AsyncResult
from click.testing import CliRunner
from kombu.exceptions import OperationalError

from dispatcher.cli import cli
from dispatcher.errors import JobDead
from dispatcher.events import JobSettled, JobsRefused
from dispatcher.store.redis_client.connection import celery_url
from tests.integration.stage import Stage, make_app
from tests.messages import TASK, envelope, message


def test_bad_messages_are_dead_letters_and_good_ones_go_on(stage: Stage) -> None:
    """Each with its reason, in the same step as the good ones around them."""
    worker = stage.worker(models=("minilm",), concurrency=10)
    bad = {
        "bad-eta": message("bad-eta", eta="tomorrow"),
        "bad-limit": message("bad-limit", timelimit=5),
        "no-model": message("no-model", dispatch={"model": "gpt-99"}),
        "bad-cost": message("bad-cost", dispatch={"cost": -1}),
    }
    nameless = [b"not json", b"{}", b"\xff\x00", b"", b"!", b"!77", json.dumps(envelope() | {"properties": {}}).encode()]
    good = [message(f"good-{i}") for i in range(3)]
    stage.client.lpush("dispatch", good[0], *bad.values(), good[1], *nameless, good[2])

    report = stage.step()

    assert report.admitted == 3 + len(bad) + len(nameless)
    assert worker.run_all() == ["good-0", "good-1", "good-2"]
    reasons = stage.reasons()
    assert {name: reasons[name] for name in bad} == {
        "bad-eta": "bad_eta", "bad-limit": "bad_timelimit", "no-model": "unknown_model", "bad-cost": "bad_header",
    }  # fmt: skip
    assert len(reasons) == len(bad) + len(nameless)
    refused = {event.reason: event.count for event in stage.events if isinstance(event, JobsRefused)}
    assert sum(refused.values()) == len(reasons)
    assert refused["not_json"] == 5


def test_a_dead_job_raises_where_it_is_waited_for(stage: Stage) -> None:
    """AsyncResult.get() of each dead job that had an id raises JobDead with the reason, and does not hang."""
    stage.worker(models=("minilm",))
    (no_model,) = stage.send(headers={"dispatch": {"model": "gpt-99"}})
    stage.client.lpush("dispatch", b"garbage without an id", message("bad-eta", eta="tomorrow"))
    stage.steps()

    assert stage.settler.step() == 2
    assert stage.settler.step() == 0
    for id_, reason in ((no_model, "unknown_model"), ("bad-eta", "bad_eta")):
        with pytest.raises(JobDead) as raised:
            AsyncResult(id_, app=stage.app).get(timeout=10)
        assert raised.value.reason == reason
    assert stage.text.zcard(stage.keys.dead_letters) == 3
    assert stage.kinds().count("JobSettled") == 2


def test_a_settler_that_dies_is_followed_by_one_that_settles(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark goes after the result is stored, so nothing is lost between them (scenario 59)."""
    (sent,) = stage.send(headers={"dispatch": {"cost": -1}})
    stage.steps()
    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "mark_as_failure", _raise_connection_error)
        with pytest.raises(redis.ConnectionError):
            stage.settler.step()
    assert stage.text.scard(stage.keys.unsettled) == 1

    stage.settler.step()
    assert AsyncResult(sent, app=stage.app).state == "FAILURE"


def _raise_connection_error(*args: object, **kwargs: object) -> None:
    raise redis.ConnectionError("away")


def test_the_errbacks_of_a_dead_job_are_called(stage: Stage) -> None:
    """As Celery calls them for any failed job: with its id."""
    errback = stage.app.tasks["demo.errback"]
    sent = stage.app.tasks[TASK].apply_async(headers={"dispatch": {"cost": -1}}, link_error=errback.s())
    stage.steps()
    stage.settler.step()

    (raw,) = stage.client.lrange("dispatch", 0, -1)
    called = json.loads(raw)
    assert called["headers"]["task"] == "demo.errback"
    assert sent.id in called["headers"]["argsrepr"]


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
def test_the_chord_of_a_dead_job_fails(stage: Stage, compression: str | None) -> None:
    """Its other part runs, the body does not, and who waits for it is told, in a compressed message as well."""
    worker = stage.worker()
    job, callback = stage.app.tasks[TASK], stage.app.tasks["demo.callback"]
    result = chord([job.s(1), job.s(2).set(headers={"dispatch": {"cost": -1}}, compression=compression)])(callback.s())
    stage.steps()
    assert len(worker.run_all()) == 1
    stage.settler.step()

    with pytest.raises(ChordError):
        AsyncResult(result.id, app=stage.app).get(timeout=10)


def test_a_broken_canvas_does_not_keep_a_dead_job_waiting(stage: Stage) -> None:
    """Its errbacks are nonsense; its own state is stored all the same."""
    stage.client.lpush("dispatch", message("broken", eta="tomorrow", embed={"errbacks": "nonsense", "chord": 5}))
    stage.steps()
    stage.settler.step()

    with pytest.raises(JobDead):
        AsyncResult("broken", app=stage.app).get(timeout=10)
    assert stage.text.scard(stage.keys.unsettled) == 0


@pytest.mark.parametrize("options", [{"serializer": "nope"}, {"compression": "nope"}, {"countdown": 1e308}], ids=str)
def test_an_errback_that_cannot_be_sent_keeps_no_dead_job_waiting(stage: Stage, options: dict[str, Any]) -> None:
    """It names what is not installed here, or no date: neither its own state nor that of its neighbours waits for that."""
    # Of a task that is not known here, or it would be called here and now instead of being sent.
    errback = {"task": "elsewhere", "args": [], "kwargs": {}, "options": options, "subtask_type": None, "immutable": True}
    stage.client.lpush("dispatch", message("odd", eta="tomorrow", embed={"errbacks": [errback]}), message("plain", eta="tomorrow"))
    stage.steps()
    stage.settler.step()

    for id_ in ("odd", "plain"):
        with pytest.raises(JobDead):
            AsyncResult(id_, app=stage.app).get(timeout=10)
    assert stage.text.scard(stage.keys.unsettled) == 0


@pytest.mark.parametrize(
    "headers",
    [{"group": "g", "group_index": "NaN"}, {"group": "g", "group_index": True}, {"group": {}, "group_index": 1}, {"id": "\ud800"}],
    ids=str,
)
def test_headers_that_the_backend_would_refuse(stage: Stage, headers: dict[str, Any]) -> None:
    """Its chord cannot be told, or nobody can ask for it; it is settled all the same, and not tried for ever."""
    chord_ = {"task": "demo.callback", "args": [], "kwargs": {}, "options": {"task_id": "c"}, "subtask_type": None, "immutable": False}
    stage.client.lpush("dispatch", message("odd", eta="tomorrow", embed={"chord": chord_}))
    stage.steps()
    (job,) = stage.client.smembers(stage.keys.unsettled)
    sent = json.loads(stage.client.hget(stage.keys.messages, job))
    stage.client.hset(stage.keys.messages, job, json.dumps(sent | {"headers": sent["headers"] | headers}))
    stage.client.hdel(stage.keys.dead_reasons, job)
    stage.settler.step()

    assert stage.text.scard(stage.keys.unsettled) == 0
    if "id" not in headers:
        assert AsyncResult("odd", app=stage.app).state == "FAILURE"


def test_a_broker_that_is_away_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep kombu hides that: the canvas is told once the broker is back."""
    stage.client.lpush("dispatch", message("job", eta="tomorrow"))
    stage.steps()

    def fail(*args: object, **kwargs: object) -> None:
        try:
            try:
                raise redis.ConnectionError("away")
            except redis.ConnectionError as exc:
                raise OperationalError("away") from exc
        except OperationalError as exc:
            raise OperationalError("away") from exc

    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "mark_as_failure", fail)
        with pytest.raises(OperationalError):
            stage.settler.step()
    assert stage.text.scard(stage.keys.unsettled) == 1
    assert stage.settler.step() == 1


def test_one_that_cannot_be_settled_keeps_no_other_waiting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend refuses the state of one of them; the others' are stored, and then it is said."""
    stage.client.lpush("dispatch", *(message(f"job{i}", eta="tomorrow") for i in range(3)))
    stage.steps()
    mark = stage.app.backend.mark_as_failure

    def refuse_one(task_id: str, *args: Any, **kwargs: Any) -> None:
        if task_id == "job1":
            raise RuntimeError("a bug in a backend")
        mark(task_id, *args, **kwargs)

    monkeypatch.setattr(stage.app.backend, "mark_as_failure", refuse_one)
    with pytest.raises(RuntimeError):
        stage.settler.step()
    assert [AsyncResult(f"job{i}", app=stage.app).state for i in range(3)] == ["FAILURE", "PENDING", "FAILURE"]
    assert stage.text.scard(stage.keys.unsettled) == 1


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"\xff", b"{", b'{"reason": 5, "story": 7}', b'{"story": [{"began_ms": 1000000000000000000}]}']
)
def test_what_is_no_record_of_a_dead_letter_stops_nobody(stage: Stage, record: bytes) -> None:
    """Nor does a member of ``unsettled`` that is no job."""
    stage.client.lpush("dispatch", message("job", eta="tomorrow"))
    stage.steps()
    (number,) = stage.client.smembers(stage.keys.unsettled)
    stage.client.hset(stage.keys.dead_reasons, number, record)
    stage.client.sadd(stage.keys.unsettled, b"\xff\xfe", "no job")
    stage.settler.step()

    with pytest.raises(JobDead):
        AsyncResult("job", app=stage.app).get(timeout=10)
    assert stage.client.scard(stage.keys.unsettled) == 0


def test_a_message_that_is_too_large(redis_url: str) -> None:
    """It is a dead letter without having been read, kept whole; its id is found when its state is stored."""
    stage = Stage(redis_url, message_bytes_max=2_000)
    worker = stage.worker(concurrency=2)
    large, good = message("large", args=("x" * 3_000,)), message("good")
    stage.client.lpush("dispatch", large, good)
    stage.step()

    assert worker.run_all() == ["good"]
    assert stage.reasons() == {"large": "too_large"}
    stage.settler.step()
    with pytest.raises(JobDead, match="too_large"):
        AsyncResult("large", app=stage.app).get(timeout=10)
    stage.close()


@pytest.mark.long
def test_a_message_of_100_mb(stage: Stage) -> None:
    """As above, at its real size, with the default limit."""
    worker = stage.worker(concurrency=2)
    large = message("large", args=("x" * 75_000_000,))
    assert len(large) > 100_000_000
    stage.client.lpush("dispatch", large)
    stage.client.lpush("dispatch", message("good"))
    stage.steps()

    assert worker.run_all() == ["good"]
    stage.settler.step()
    with pytest.raises(JobDead, match="too_large"):
        AsyncResult("large", app=stage.app).get(timeout=10)


def test_a_model_is_unknown_only_once_models_are_known(stage: Stage) -> None:
    """Before any worker named one, its jobs wait; a worker that serves it makes it known for good."""
    sent = stage.send(headers={"dispatch": {"model": "minilm"}})
    stage.steps()
    assert len(stage.waiting()) == 1
    plain = stage.worker("plain")
    stage.steps()
    assert plain.run_all() == []

    server = stage.worker("server", models=("minilm",))
    stage.steps()
    assert server.run_all() == sent
    server.store.goodbye()
    stage.steps()
    stage.send(headers={"dispatch": {"model": "minilm"}})
    (unknown,) = stage.send(headers={"dispatch": {"model": "minilm@2"}})
    stage.steps()
    assert len(stage.waiting()) == 1
    assert stage.reasons() == {unknown: "unknown_model"}


def test_an_unknown_header_field_is_said_once(stage: Stage) -> None:
    """However many jobs carry it."""
    stage.worker(concurrency=9)
    for _ in range(3):
        stage.send(2, headers={"dispatch": {"shard": 5}})
        stage.step()

    assert stage.kinds().count("UnknownHeaderField") == 1


def test_a_result_over_rpc(redis_url: str) -> None:
    """It goes to the queue that its sender named; where its sender named none, no log says that it is stored."""
    app = make_app(redis_url)
    app.conf.result_backend = "rpc://"
    stage = Stage(redis_url, app=app)
    stage.dispatcher.step()
    result = app.tasks[TASK].apply_async(headers={"dispatch": {"cost": -1}})
    silent = json.loads(message("nobody-waits", eta="tomorrow"))
    del silent["properties"]["reply_to"]
    stage.client.lpush("dispatch", json.dumps(silent))
    stage.steps()
    stage.settler.step()

    with pytest.raises(JobDead, match="bad_header"):
        result.get(timeout=10)
    assert [event.task_id for event in stage.events if isinstance(event, JobSettled)] == [result.id]
    assert stage.text.scard(stage.keys.unsettled) == 0
    stage.close()


def test_a_task_with_a_backend_of_its_own(stage: Stage) -> None:
    """Its FAILURE is stored there, and not in the app's."""
    kind, url = by_url(celery_url(stage.url.rpartition("=")[0] + "=2"))
    elsewhere = kind(url=url, app=stage.app)
    stage.app.task(_raise_not_ready, name="demo.elsewhere", shared=False, backend=elsewhere)
    sent = stage.app.tasks["demo.elsewhere"].apply_async(headers={"dispatch": {"cost": -1}})
    stage.steps()
    stage.settler.step()

    assert (elsewhere.get_state(sent.id), stage.app.backend.get_state(sent.id)) == ("FAILURE", "PENDING")


def test_a_result_that_nobody_wants(stage: Stage) -> None:
    """With ignore_result no state is stored, nor is it said to be, unless the task stores its errors even so."""
    stage.app.task(_raise_not_ready, name="demo.errors", shared=False, store_errors_even_if_ignored=True)
    bad = {"headers": {"dispatch": {"cost": -1}}, "ignore_result": True}
    silent = stage.app.tasks[TASK].apply_async(**bad)
    kept = stage.app.tasks["demo.errors"].apply_async(**bad)
    stage.steps()
    stage.settler.step()

    assert [stage.app.backend.get_state(sent.id) for sent in (silent, kept)] == ["PENDING", "FAILURE"]
    assert [event.task_id for event in stage.events if isinstance(event, JobSettled)] == [kept.id]
    assert stage.text.scard(stage.keys.unsettled) == 0


def test_what_is_not_stored_yet_is_shown(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` and `check` count it while the backend fails, and no longer once a later try has stored it."""
    stage.send(headers={"dispatch": {"cost": -1}})
    stage.steps()
    with monkeypatch.context() as patch:
        patch.setattr(stage.app.backend, "mark_as_failure", _raise_not_ready)
        with pytest.raises(NotReadyError):
            stage.settler.step()

    def said(*command: str) -> str:
        result = CliRunner().invoke(cli, ["--redis-url", stage.url, *command])
        return f"{result.stdout}{result.stderr}"

    assert json.loads(said("status", "--json"))["unsettled"] == 1
    assert [said(command).count("1 dead letter without FAILURE") for command in ("status", "check")] == [1, 1]
    stage.settler.step()
    assert json.loads(said("status", "--json"))["unsettled"] == 0
    assert [said(command).count("without FAILURE") for command in ("status", "check")] == [0, 0]


class NotReadyError(Exception):
    """What Django raises before it is set up is an error of its own, too."""


def _raise_not_ready(*args: object, **kwargs: object) -> None:
    raise NotReadyError("apps aren't loaded yet")
