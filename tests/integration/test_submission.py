"""Submissions against a real Redis and a real Celery worker: every line once, whatever is interrupted and when."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_prerun
from celery.utils.saferepr import saferepr

from dispatcher.batches import InvalidBatch, Progress, submit_file
from dispatcher.batches.bodies import why_no_body
from dispatcher.batches.state import digest_of
from dispatcher.clock import ManualClock
from dispatcher.errors import Invalid, JobDead, PoisonJob, Unavailable
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import celery_url
from tests.eventually import eventually
from workers.chunk import run_chunk
from workers.runtimes import LoadedRuntimes
from workers.tasks import infer

LINES = 60
SMALL = Settings(chunk_lines_max=4)


def make_app(redis_url: str) -> Celery:
    """A plain Celery app with the infer task; it counts its runs in another database."""
    url = celery_url(redis_url)
    app = Celery("plain", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_default_queue="dispatch", accept_content=["json"], broker_connection_retry_on_startup=True)
    ledger = redis.Redis.from_url(redis_url.replace("db=0", "db=1"))
    runtimes = LoadedRuntimes({})

    @app.task(name="workers.tasks.infer", bind=True, shared=False)
    def infer(self: Any, chunk: dict[str, Any]) -> dict[str, Any]:
        for line in chunk["lines"]:
            ledger.hincrby("runs", line["custom_id"], 1)
        if chunk["model"] == "dies":
            raise JobDead("worker_died", "it died 3 times")
        if chunk["model"] == "kills":
            if any(line["index"] % 10 == 0 for line in chunk["lines"]):
                raise PoisonJob("worker_died", "it died 3 times: run 1 …")
            chunk = chunk | {"model": "hash-384"}
        if chunk["model"] == "slow":
            if any(line["index"] % 10 == 0 for line in chunk["lines"]):
                raise SoftTimeLimitExceeded
            chunk = chunk | {"model": "hash-384"}
        if chunk["model"] == "odd":
            return {"lines": [unchecked(line) for line in chunk["lines"]], "usage": 3}
        if ledger.exists("slow"):
            ledger.blpop(["permits"], timeout=5)
        return run_chunk(chunk, runtimes, request_id=self.request.id) | {"worker": self.request.hostname, "busy_ms": 1}

    return app


def unchecked(line: dict[str, Any]) -> dict[str, Any]:
    """As a worker of another version, or a user's own, may answer: every tenth line oddly."""
    odd: list[Any] = [None, "text", {"text": "cut \ud83d"}, {"x": float("nan")}, {"x": b"raw"}, {1: [2]}]
    body = {"said": line["index"]} if line["index"] % 10 else odd[line["index"] // 10]
    return {"index": line["index"], "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


@pytest.fixture
def app(redis_url: str) -> Celery:
    return make_app(redis_url)


@pytest.fixture
def worker(app: Celery) -> Iterator[None]:
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
        yield


@pytest.fixture
def ledger(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url.replace("db=0", "db=1"), decode_responses=True)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Sixty lines of different lengths; every tenth is refused by the model."""
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps({
        "custom_id": f"line-{n}", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "hash-384", "input": "word " * (1 + n % 7) if n % 10 else ""},
    }) + "\n" for n in range(LINES)))  # fmt: skip
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def errors_of(out: Path) -> Path:
    return out.with_name(out.name + ".errors.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_complete(out: Path) -> None:
    """Each line once, successes and failures in their own files."""
    good, bad = read(out), read(errors_of(out))
    assert Counter(line["custom_id"] for line in good + bad) == Counter(f"line-{n}" for n in range(LINES))
    assert {line["custom_id"] for line in bad} == {f"line-{n}" for n in range(0, LINES, 10)}
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in good)
    assert all(line["response"]["status_code"] == 400 and line["error"] is None for line in bad)


def leftovers(redis_url: str) -> list[str]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        return [key for key in client.scan_iter("*") if key.startswith(("celery-task-meta", "dispatch:submission"))]


def stop_after(chunks: int) -> Any:
    """A progress callback that does what Ctrl-C does once so many lines were collected."""

    def callback(progress: Progress) -> None:
        if progress.done - progress.resumed >= chunks:
            raise KeyboardInterrupt

    return callback


def test_every_line_is_answered_once(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str, ledger: redis.Redis
) -> None:
    """Over both files; nothing is left in Redis, and the worker ran every line once."""
    seen: list[int] = []

    summary = submit_file(app, batch, out, settings=SMALL, progress=lambda progress: seen.append(progress.done))

    assert_complete(out)
    assert (summary.progress.succeeded, summary.progress.failed, summary.ok) == (54, 6, False)
    assert summary.errors == errors_of(out)
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == LINES
    (share,) = summary.progress.by_worker.values()
    assert (share.lines, share.chunks) == (LINES, summary.progress.chunks)
    assert summary.progress.usage["total_tokens"] > 0
    assert leftovers(redis_url) == []
    assert set(ledger.hgetall("runs").values()) == {"1"}


def test_what_is_shown_of_a_chunk_is_not_the_users_text(app: Celery, worker: None, batch: Path, out: Path) -> None:
    """Logs, task events and Flower show which part of which batch a job is; neither its lines nor, of our own task, its result."""
    shown: set[str] = set()

    def note(task: Any = None, **_: Any) -> None:
        shown.add(task.request.argsrepr)

    task_prerun.connect(note)
    submit_file(app, batch, out, settings=SMALL)

    chunks = {re.fullmatch(r"\(batch_[0-9a-f]{12}, chunk (\d+), 4 lines\)", text).group(1) for text in shown}
    assert chunks == {str(number) for number in range(len(chunks))}
    assert len(chunks) >= LINES / 4
    assert "lines" not in saferepr({"lines": [{"body": "an answer"}]}, infer.resultrepr_maxsize)


def test_results_are_read_many_at_a_time(app: Celery, worker: None, batch: Path, out: Path, redis_url: str) -> None:
    """Not with a round trip each: up to a thousand chunks are in flight, and each is looked at again and again."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.config_resetstat()

        submit_file(app, batch, out, settings=SMALL)

        assert client.info("commandstats")["cmdstat_mget"]["calls"] > 0


def test_a_clean_batch_leaves_no_error_file(app: Celery, worker: None, batch: Path, out: Path) -> None:
    """Its absence is the sign that nothing failed."""
    lines = [line for line in batch.read_text().splitlines(keepends=True) if '"input": ""' not in line]
    batch.write_text("".join(lines))

    summary = submit_file(app, batch, out, settings=SMALL)

    assert (summary.errors, summary.ok) == (None, True)
    assert not errors_of(out).exists()


def test_results_that_are_there_are_not_overwritten(app: Celery, batch: Path, out: Path) -> None:
    """Without ``resume``, and before anything is sent."""
    out.write_text("precious")

    with pytest.raises(Invalid, match="exists already: finish it with --resume"):
        submit_file(app, batch, out)
    with pytest.raises(Invalid, match="no file to resume"):
        submit_file(app, batch, errors_of(out), errors=_with_line(out), resume=True)
    for options in ({"out": batch}, {"out": out, "errors": batch}):
        with pytest.raises(Invalid, match="is the batch: results and errors must go to other files"):
            submit_file(app, batch, **options, resume=True)
    with pytest.raises(Invalid, match="name two files"):
        submit_file(app, batch, batch.with_name("new"), errors=batch.with_name("new"))


def _with_line(path: Path) -> Path:
    path.write_text("precious\n")
    return path


def test_an_invalid_file_sends_nothing(app: Celery, batch: Path, out: Path, redis_url: str) -> None:
    """And makes no results file."""
    batch.write_text("{\n[\n")

    with pytest.raises(InvalidBatch) as caught:
        submit_file(app, batch, out)

    assert len(caught.value.mistakes) == 2
    assert not out.exists()
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("lost_state", [False, True])
def test_an_interrupted_submission_is_finished_by_another(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str, ledger: redis.Redis, lost_state: bool
) -> None:
    """With a torn last line, too. What was sent is not sent again while Redis knows of it, even under other settings."""
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, settings=SMALL, progress=stop_after(8))
    before = read(out)
    with out.open("a") as file:
        file.write('{"id": "batch_req_torn", "custom_id": "line-')
    if lost_state:
        eventually(lambda: ledger.hlen("runs") == LINES)
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()

    summary = submit_file(app, batch, out, settings=Settings(chunk_lines_max=5), resume=True)

    assert_complete(out)
    assert read(out)[: len(before)] == before
    assert 8 <= summary.progress.resumed < LINES
    runs = Counter(ledger.hgetall("runs").values())
    assert runs == ({"1": summary.progress.resumed, "2": LINES - summary.progress.resumed} if lost_state else {"1": LINES})
    assert leftovers(redis_url) == [] or lost_state


@pytest.mark.parametrize("lines_at_kill", [0, 1, 30])
def test_a_killed_submission_is_finished_by_another(
    worker: None, app: Celery, batch: Path, out: Path, redis_url: str, ledger: redis.Redis, lines_at_kill: int
) -> None:
    """SIGKILL at any point: before the first result, after it, half-way. Every line once."""
    ledger.set("slow", 1)
    if lines_at_kill:
        ledger.rpush("permits", *range(lines_at_kill // 4 + 1))
    code = ("import sys; from tests.integration.test_submission import *\n"
            "submit_file(make_app(sys.argv[1]), sys.argv[2], sys.argv[3], settings=SMALL)")
    process = subprocess.Popen([sys.executable, "-c", code, redis_url, str(batch), str(out)])
    try:
        done = lambda: len(read(out)) + len(read(errors_of(out))) >= lines_at_kill  # noqa: E731
        eventually(lambda: ledger.hlen("runs") > 0 and done(), 20)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ledger.delete("slow")
    ledger.rpush("permits", 1)

    submit_file(app, batch, out, settings=SMALL, resume=True)

    assert_complete(out)
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists(Keys().submission(digest_of(out)))


def test_a_failed_chunk_gives_each_of_its_lines_an_error(app: Celery, worker: None, batch: Path, out: Path) -> None:
    """A job in dead letters is an answer too: no response, and a reason."""
    summary = submit_file(app, batch, out, model="dies", errors=out.with_name("bad.jsonl"), settings=SMALL)

    bad = read(out.with_name("bad.jsonl"))
    assert summary.progress.failed == len(bad) == LINES
    assert read(out) == []
    assert all(line["response"] is None for line in bad)
    assert {(line["error"]["code"], line["error"]["message"]) for line in bad} == {
        ("job_dead", "worker_died: it died 3 times")}


def assert_only_killers_failed(out: Path) -> None:
    """Each line once, those that kill with the story of it."""
    good, bad = read(out), read(errors_of(out))
    assert Counter(line["custom_id"] for line in good + bad) == Counter(f"line-{n}" for n in range(LINES))
    assert {line["custom_id"] for line in bad} == {f"line-{n}" for n in range(0, LINES, 10)}
    assert {(line["response"], line["error"]["code"]) for line in bad} == {(None, "job_dead")}
    assert all("run 1" in line["error"]["message"] for line in bad)


def test_a_chunk_that_killed_its_workers_is_sent_line_by_line(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str
) -> None:
    """The one line that did it fails, the others of its chunk are answered; nothing is left."""
    summary = submit_file(app, batch, out, model="kills", settings=SMALL)

    assert_only_killers_failed(out)
    assert summary.progress.failed == 6
    assert sum(share.chunks for share in summary.progress.by_worker.values()) == summary.progress.chunks > LINES / 4
    assert leftovers(redis_url) == []


def test_a_chunk_that_ran_out_of_time_is_sent_line_by_line(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str
) -> None:
    """Each line has all the time that a job has: only those that need more of it fail."""
    summary = submit_file(app, batch, out, model="slow", settings=SMALL)

    good, bad = read(out), read(errors_of(out))
    assert Counter(line["custom_id"] for line in good + bad) == Counter(f"line-{n}" for n in range(LINES))
    assert {(line["custom_id"], line["error"]["code"]) for line in bad} == {
        (f"line-{n}", "request_timeout") for n in range(0, LINES, 10)
    }
    assert summary.progress.failed == 6
    assert leftovers(redis_url) == []


def test_an_odd_answer_keeps_no_other_from_the_file(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str
) -> None:
    """Whatever the worker let through: each line that cannot be written as it came is an error that says what came."""
    submit_file(app, batch, out, model="odd", settings=SMALL)

    good, bad = read(out), read(errors_of(out))
    assert {line["custom_id"] for line in good} == {f"line-{n}" for n in range(LINES) if n % 10 or n == 50}  # JSON has no other keys
    assert {line["custom_id"]: line["error"]["message"].partition(",")[0] for line in bad} == {
        "line-0": "the worker gave None", "line-10": "the worker gave a str",
        "line-20": "the worker gave half a surrogate pair at body.text", "line-30": "the worker gave the float nan at body.x",
        "line-40": "the worker gave a bytes at body.x",
    }  # fmt: skip
    assert leftovers(redis_url) == []


@pytest.mark.parametrize(("record", "lines_max"), [
    (b"{no json", 4), (b"[]", 4), (b"\xff", 4), (b'{"status": "SUCCESS"}', 4), (b'{"result": 1}', 4), (b"{no json", 1),
])  # fmt: skip
def test_a_result_that_cannot_be_read_has_its_lines_sent_one_by_one(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str, ledger: redis.Redis, record: bytes, lines_max: int
) -> None:
    """Whoever wrote it: reading it again would not help, and the submission must end. A line alone fails of it."""
    settings = Settings(chunk_lines_max=lines_max)
    ledger.set("slow", 1)
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, settings=settings, progress=lambda p: stop_after(0)(p) if p.chunks_in_flight == 0 else None)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset(Keys().submission(digest_of(out)), "3", f"garbled {client.time()[0]}")
        client.set("celery-task-meta-garbled", record)
    ledger.delete("slow")
    ledger.rpush("permits", 1)

    submit_file(app, batch, out, settings=settings, resume=True)

    good, bad = read(out), read(errors_of(out))
    assert Counter(line["custom_id"] for line in good + bad) == Counter(f"line-{n}" for n in range(LINES))
    garbled = [line["error"] for line in bad if line["error"]]
    assert [error["code"] for error in garbled] == ["server_error"] * (lines_max == 1)
    assert {error["message"].partition(": ")[2].partition(":")[0] for error in garbled} <= {"its result cannot be read"}
    assert leftovers(redis_url) == []


UNSENDABLE = {
    7: '{"__type__": "nobody\'s", "__value__": 1}', 8: '{"__type__": "bytes", "__value__": "raw"}', 33: json.dumps("long " * 300_000),
}  # fmt: skip
"""Line → a value in its body that Celery or Redis cannot carry as it is."""


def test_a_line_that_cannot_be_sent_fails_alone(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str, ledger: redis.Redis
) -> None:
    """Before it is sent, with the reason; its neighbours in the chunk have their answers, and the submission ends."""
    lines = batch.read_text().splitlines()
    for n, value in UNSENDABLE.items():
        lines[n] = lines[n].removesuffix("}}") + f', "odd": {value}}}}}'
    batch.write_text("\n".join(lines))
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("proto-max-bulk-len", 1024 * 1024)
        try:
            with pytest.raises(KeyboardInterrupt):
                submit_file(app, batch, out, settings=SMALL, progress=stop_after(30))
            submit_file(app, batch, out, settings=SMALL, resume=True)
        finally:
            client.config_set("proto-max-bulk-len", 512 * 1024 * 1024)

    good, bad = read(out), read(errors_of(out))
    assert Counter(line["custom_id"] for line in good + bad) == Counter(f"line-{n}" for n in range(LINES))
    unsent = {int(line["custom_id"][5:]): line["error"] for line in bad if line["error"]}
    assert unsent.keys() == UNSENDABLE.keys()
    assert {(error["code"], error["message"].partition(": ")[0]) for error in unsent.values()} == {("invalid_request", "it was not sent")}
    said = {n: error["message"] for n, error in unsent.items()}
    assert "ValueError" in said[7]
    assert "typed value" in said[8]
    assert "Redis takes 1048576 at most" in said[33]
    assert set(ledger.hgetall("runs")) == {f"line-{n}" for n in range(LINES)} - {f"line-{n}" for n in UNSENDABLE}
    assert leftovers(redis_url) == []


def test_an_answer_that_celery_reads_as_something_else_fails_alone(tmp_path: Path) -> None:
    """The model is told which part of it; no backend could give it back."""
    assert why_no_body({"data": [{"__type__": "nobody's", "__value__": 1}]}) == (
        "an object of __type__ and __value__ alone at data[0], for Celery a typed value: rename one"
    )


def test_a_queue_that_redis_refuses_is_said_at_once(app: Celery, batch: Path, out: Path, redis_url: str) -> None:
    """In Redis' own words, and not after a minute."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("dispatch", "a string")

    with pytest.raises(Unavailable, match=r"Redis refuses what a submission needs \(.*WRONGTYPE .*resume"):
        submit_file(app, batch, out, settings=SMALL)


@pytest.mark.parametrize("of_plain_celery", [False, True])
def test_a_cell_without_a_leader_is_said(app: Celery, batch: Path, out: Path, redis_url: str, of_plain_celery: bool) -> None:
    """Once nothing has ended for some seconds, and no longer once somebody leads. Where plain Celery took the chunks, nobody needs to."""
    clock, said = ManualClock(), []
    with redis.Redis.from_url(redis_url) as client:
        def note(progress: Progress) -> None:
            if progress.waits_for not in said:
                said.append(progress.waits_for)
            if progress.waits_for:
                client.set(Keys().leader, "somebody")
            elif len(said) > 1:
                raise KeyboardInterrupt

        def sleep(seconds: float) -> None:
            clock.now_ms += round(seconds * 1000)
            if of_plain_celery:
                client.delete("dispatch")
                if clock.now_ms > 60_000:
                    raise KeyboardInterrupt

        clock.sleep = sleep
        with pytest.raises(KeyboardInterrupt):
            submit_file(app, batch, out, settings=SMALL, progress=note, clock=clock)

    sentence = "no dispatcher leads this cell: the chunks wait until one does, so start one with `dispatcher run`"
    assert said == ([""] if of_plain_celery else ["", sentence])


@pytest.mark.parametrize("collected", [1, 12, 40])
def test_a_submission_that_was_split_resumes(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str, ledger: redis.Redis, collected: int
) -> None:
    """It knows which chunks were sent line by line; what was answered is not sent again."""
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, model="kills", settings=SMALL, progress=stop_after(collected))
    submit_file(app, batch, out, model="kills", settings=SMALL, resume=True)

    assert_only_killers_failed(out)
    assert leftovers(redis_url) == []
    assert max(map(int, ledger.hgetall("runs").values())) == 2  # in a chunk that was split, then by itself


def test_only_the_failed_lines_run_again_once_the_error_file_is_removed(
    app: Celery, worker: None, batch: Path, out: Path, ledger: redis.Redis
) -> None:
    """The way to repeat failures after their cause is gone."""
    submit_file(app, batch, out, settings=SMALL)
    errors_of(out).unlink()

    submit_file(app, batch, out, settings=SMALL, resume=True)

    assert_complete(out)
    assert Counter(ledger.hgetall("runs").values()) == {"1": 54, "2": 6}


def test_a_result_that_has_expired_is_computed_again(app: Celery, batch: Path, out: Path, redis_url: str) -> None:
    """A submission resumed after days must not wait for ever for what Redis has dropped."""
    stop = stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, settings=SMALL, progress=lambda p: stop(p) if p.chunks_in_flight == 0 else None)
    key = Keys().submission(digest_of(out))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset(key, mapping={str(n): f"lost-{n} 1000000" for n in range(20)})

        with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
            submit_file(app, batch, out, settings=SMALL, resume=True)

    assert_complete(out)


def test_a_plan_that_another_version_made_is_made_anew(
    app: Celery, worker: None, batch: Path, out: Path, redis_url: str
) -> None:
    """It counted tokens otherwise, so its chunks are others: what is in the files stays, the rest is sent again."""
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, settings=SMALL, progress=stop_after(8))
    before = read(out)
    key = Keys().submission(digest_of(out))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        plan = json.loads(str(client.hget(key, "plan")))
        del plan["estimator"]
        client.hset(key, "plan", json.dumps(plan | {"lines_max": 7}))

    submit_file(app, batch, out, settings=SMALL, resume=True)

    assert_complete(out)
    assert read(out)[: len(before)] == before


def test_another_input_is_not_mixed_into_the_results(app: Celery, worker: None, batch: Path, out: Path) -> None:
    """Resuming with a changed file or model is refused."""
    with pytest.raises(KeyboardInterrupt):
        submit_file(app, batch, out, settings=SMALL, progress=stop_after(4))

    with pytest.raises(Invalid, match="was begun with another input or model"):
        submit_file(app, batch, out, settings=SMALL, resume=True, model="minilm")
    with pytest.raises(Invalid, match="was begun with another input or model"):
        submit_file(app, batch, out, settings=SMALL, resume=True, url="/v1/responses")
    batch.write_text(batch.read_text() + "\n")
    with pytest.raises(Invalid, match="was begun with another input or model"):
        submit_file(app, batch, out, settings=SMALL, resume=True)


def test_two_submissions_cannot_write_one_file(app: Celery, worker: None, batch: Path, out: Path) -> None:
    """The second is told; the first goes on."""
    told: list[str] = []

    def second(progress: Progress) -> None:
        if progress.done == 0:
            with contextlib.suppress(Invalid):
                submit_file(app, batch, out, settings=SMALL, resume=True)
                told.append("it ran")
            told.append("refused")

    submit_file(app, batch, out, settings=SMALL, progress=second)

    assert told == ["refused"]
    assert_complete(out)


def test_an_absent_redis_is_said_after_a_minute(tmp_path: Path, batch: Path, out: Path) -> None:
    """An outage is waited out; one that lasts ends with what to do."""
    app = make_app(f"unix://{tmp_path}/absent.sock?db=0")

    with pytest.raises(Unavailable, match=r"has not answered for 60 s .* resume"):
        submit_file(app, batch, out, clock=ManualClock())
