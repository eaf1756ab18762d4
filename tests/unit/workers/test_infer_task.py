"""The infer task: every line gets its own answer, and a bad line harms no other."""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
import types
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import Invalid
from workers.chunk import answer_each, run_chunk
from workers.runtimes import Answer, Body, LoadedRuntimes, Rejected, callables_from
from workers.tasks import infer


class FailsOn:
    """A model that raises whenever one of ``bad`` is in the batch, and counts its runs."""

    endpoints: frozenset[str] = frozenset()

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.runs = 0

    def load(self) -> None: ...
    def probe(self) -> None: ...
    def close(self) -> None: ...

    def run(self, batch: list[Body]) -> list[Answer]:
        self.runs += 1
        if any(body["n"] in self.bad for body in batch):
            raise ValueError("cannot read this")
        return [{"n": body["n"]} for body in batch]


def chunk(model: str, *bodies: Any, url: str = "/v1/embeddings") -> dict[str, Any]:
    lines = [{"index": 10 + n, "custom_id": f"c{n}", "body": body} for n, body in enumerate(bodies)]
    return {"model": model, "url": url, "lines": lines}


@given(st.integers(0, 64).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1))))))
def test_only_the_bad_lines_fail(case: tuple[int, set[int]]) -> None:
    """Whichever and however many they are; the good ones are answered, in order."""
    count, bad = case
    model = FailsOn(bad)

    answers = answer_each(model, [{"n": n} for n in range(count)])

    assert len(answers) == count
    for n, answer in enumerate(answers):
        if n in bad:
            assert isinstance(answer, Rejected)
            assert (answer.status_code, answer.message) == (500, "ValueError: cannot read this")
        else:
            assert answer == {"n": n}
    failing = max(1, len(bad & set(range(count))))
    assert model.runs <= 1 + 2 * failing * math.ceil(math.log2(max(2, count)))


def test_a_wrong_number_of_answers_is_a_failure_of_the_batch() -> None:
    """Nobody can say which answer belongs to which line, so none is used."""

    class Drops(FailsOn):
        def run(self, batch: list[Body]) -> list[Answer]:
            return [dict(body) for body in batch if body["n"] != 1]

    answers = answer_each(Drops(set()), [{"n": n} for n in range(4)])

    assert [answer for answer in answers if isinstance(answer, dict)] == [{"n": 0}, {"n": 2}, {"n": 3}]
    assert isinstance(answers[1], Rejected)
    assert "0 answers to 1 requests" in answers[1].message


def test_running_out_of_time_is_not_taken_for_a_bad_line() -> None:
    """Running the halves again would only take longer."""

    class Slow(FailsOn):
        def run(self, batch: list[Body]) -> list[Answer]:
            self.runs += 1
            raise SoftTimeLimitExceeded

    model = Slow(set())
    with pytest.raises(SoftTimeLimitExceeded):
        answer_each(model, [{"n": 1}, {"n": 2}])
    assert model.runs == 1


class Panic(BaseException):
    """What a library raises that is no ``Exception``, as Rust's panics in Python are."""


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Answers(FailsOn):
    """A model that answers the line 1 with what it is given, or raises it, and every other line well."""

    def __init__(self, odd: Any) -> None:
        super().__init__(set())
        self.odd = odd

    def run(self, batch: list[Body]) -> list[Answer]:
        self.runs += 1
        if isinstance(self.odd, BaseException) and not isinstance(self.odd, Rejected) and any(body["n"] == 1 for body in batch):
            raise self.odd
        return [self.odd if body["n"] == 1 else dict(body) for body in batch]


@pytest.mark.parametrize(("odd", "said"), [
    (None, "the model gave None, not a response body: write an object"),
    ("answer", "the model gave a str, not a response body: write an object"),
    (0.5, "the model gave a float, not a response body: write an object"),
    ({"text": b"plain"}, "the model gave a bytes at text, for which JSON has no form: convert it"),
    (Rejected(200, "no"), "the model refused the request with the status 200, which is none of 400 to 599"),
    (Rejected(400, None), "the model refused the request with None where a text belongs"),  # type: ignore[arg-type]
    (Rejected(400, "no", "input", b"x"), "the model refused the request with a bytes where a text belongs"),  # type: ignore[arg-type]
])  # fmt: skip
def test_an_answer_that_is_no_body_fails_its_line_alone(odd: Any, said: str) -> None:
    """The refusal says what came, and the model does not run again for it."""
    model = Answers(odd)

    good, bad, other = answer_each(model, [{"n": n} for n in range(3)])

    assert (good, other, model.runs) == ({"n": 0}, {"n": 2}, 1)
    assert isinstance(bad, Rejected)
    assert (bad.status_code, bad.message) == (500, said)


@pytest.mark.parametrize(("raised", "said"), [
    (asyncio.CancelledError(), "CancelledError"),
    (SystemExit(3), "SystemExit: 3"),
    (Panic("index out of bounds"), "Panic: index out of bounds"),
    (ValueError("cut \ud83d"), "ValueError: cut \\ud83d"),
    (Unreadable(), "Unreadable"),
    (Ignore("who would answer?"), "Ignore: who would answer?"),
    (Reject("who would answer?", requeue=False), "Reject: ('who would answer?', False)"),
])  # fmt: skip
def test_whatever_a_model_raises_fails_its_line_alone(raised: BaseException, said: str) -> None:
    """Of whatever class, and whether its text can be written or not."""
    good, bad, other = answer_each(Answers(raised), [{"n": n} for n in range(3)])

    assert (good, other) == ({"n": 0}, {"n": 2})
    assert isinstance(bad, Rejected)
    assert (bad.status_code, bad.message) == (500, said)


def test_running_out_of_time_is_seen_in_what_a_model_makes_of_it() -> None:
    """The signal comes but once: halves that ran on would have no limit."""

    class Wraps(FailsOn):
        def run(self, batch: list[Body]) -> list[Answer]:
            self.runs += 1
            try:
                raise SoftTimeLimitExceeded
            except Exception as exc:
                raise RuntimeError("the engine stopped") from exc

    model = Wraps(set())
    with pytest.raises(SoftTimeLimitExceeded):
        answer_each(model, [{"n": 1}, {"n": 2}])
    assert model.runs == 1


def test_where_a_pool_has_taken_ctrl_c_an_interrupt_is_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's workers and their processes have a handler of their own, or none."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)

    good, bad, other = answer_each(Answers(KeyboardInterrupt()), [{"n": n} for n in range(3)])

    assert (good, other) == ({"n": 0}, {"n": 2})
    assert isinstance(bad, Rejected)
    assert bad.message == "KeyboardInterrupt"


@pytest.mark.parametrize("raised", [
    WorkerShutdown(0), WorkerTerminate(1), KeyboardInterrupt(), Retry("later"), Reject("elsewhere", requeue=True),
])  # fmt: skip
def test_what_ends_the_worker_or_sends_the_job_elsewhere_is_no_answer(raised: BaseException) -> None:
    """It rises, and the job is not taken for done."""
    with pytest.raises(type(raised)):
        answer_each(Answers(raised), [{"n": n} for n in range(3)])


def test_a_process_that_its_pool_ends_is_not_kept_by_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's signal handler raises SystemExit wherever the process is, mostly in a model."""
    monkeypatch.setattr("billiard.common._should_have_exited", [True])

    with pytest.raises(SystemExit):
        answer_each(Answers(SystemExit(-241)), [{"n": n} for n in range(3)])


def test_what_a_model_does_to_its_batch_harms_no_other_line() -> None:
    """It may empty the list and the bodies: the halves get them whole."""

    class Empties(FailsOn):
        def run(self, batch: list[Body]) -> list[Answer]:
            numbers = [body.pop("n") for body in batch]
            batch.clear()
            if 1 in numbers:
                raise ValueError("not 1")
            return [{"n": n} for n in numbers]

    good, bad, other = answer_each(Empties(set()), [{"n": n} for n in range(3)])

    assert (good, other) == ({"n": 0}, {"n": 2})
    assert isinstance(bad, Rejected)
    assert bad.message == "ValueError: not 1"


@pytest.mark.parametrize(("answer", "said"), [
    (lambda bodies: {"data": [1.0]}, "TypeError: the model gave a dict, not a list of response bodies"),
    (lambda bodies: "answer", "TypeError: the model gave a str, not a list of response bodies"),
    (lambda bodies: {"a"}, "TypeError: the model gave a set, not a list of response bodies"),
    (lambda bodies: None, "TypeError: the model gave None, not a list of response bodies"),
    (lambda bodies: itertools.repeat({}), "RuntimeError: the model gave 2 answers to 1 requests"),
])  # fmt: skip
def test_a_callable_that_gives_no_list_is_said(monkeypatch: pytest.MonkeyPatch, answer: Any, said: str) -> None:
    """With what it gave; an endless iterator ends."""
    result = run_callable(monkeypatch, answer, {"n": 0}, {"n": 1})

    assert [line["response"]["body"]["error"]["message"] for line in result["lines"]] == [said] * 2


def test_a_callable_may_give_its_answers_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_callable(monkeypatch, lambda bodies: ({"said": body["n"]} for body in bodies), {"n": 0}, {"n": 1})

    assert [line["response"]["body"] for line in result["lines"]] == [{"said": 0}, {"said": 1}]


def run_callable(monkeypatch: pytest.MonkeyPatch, answer: Any, *bodies: Any) -> dict[str, Any]:
    module = types.ModuleType("callable_under_test")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(module, "answer", answer, raising=False)
    return run_chunk(chunk("it", *bodies), LoadedRuntimes({"WORKERS_CALLABLES": "it=callable_under_test:answer"}), request_id="job")


def test_a_chunk_answers_each_line_in_the_shape_of_a_batch() -> None:
    """Index and custom_id come back; a refusal is an HTTP answer with OpenAI's error body; usage is summed."""
    result = run_chunk(chunk("hash-384", {"input": "one two"}, {"input": 3}), LoadedRuntimes({}), request_id="job")

    good, bad = result["lines"]
    assert (good["index"], good["custom_id"], good["error"]) == (10, "c0", None)
    assert (good["response"]["status_code"], good["response"]["request_id"]) == (200, "job-10")
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"] == {
        "message": "'input' must be a string or a list of strings that is not empty.",
        "type": "invalid_request_error", "param": "input", "code": "invalid_type",
    }  # fmt: skip
    assert bad["error"] is None
    assert result["usage"] == {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}


@pytest.mark.parametrize(("model", "url", "status", "code"), [
    ("no-such", "/v1/embeddings", 404, "model_not_found"),
    ("hash-384", "/v1/chat/completions", 400, "unsupported_endpoint"),
])  # fmt: skip
def test_what_the_worker_does_not_serve_is_refused_line_by_line(model: str, url: str, status: int, code: str) -> None:
    """The chunk ends well; its lines say what was wrong."""
    result = run_chunk(chunk(model, {"input": "a"}, {"input": "b"}, url=url), LoadedRuntimes({}), request_id="job")

    assert [line["response"]["status_code"] for line in result["lines"]] == [status, status]
    assert {line["response"]["body"]["error"]["code"] for line in result["lines"]} == {code}


def test_a_callable_is_a_model_where_the_operator_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``WORKERS_CALLABLES`` maps models to functions; a job can name only what is there."""
    module = types.ModuleType("callable_under_test")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    monkeypatch.setattr(module, "shout", lambda bodies: [{"text": body["text"].upper()} for body in bodies], raising=False)
    runtimes = LoadedRuntimes({"WORKERS_CALLABLES": "shout=callable_under_test:shout"})

    result = run_chunk(chunk("shout", {"text": "a"}, {}, {"text": "c"}, url="/v1/completions"), runtimes, request_id="job")

    first, second, third = (line["response"] for line in result["lines"])
    assert (first["body"], third["body"]) == ({"text": "A"}, {"text": "C"})
    assert (second["status_code"], second["body"]["error"]["type"]) == (500, "server_error")
    with runtimes.use("shout") as runtime:
        runtime.probe()
    runtimes.close()
    refused = run_chunk(chunk("os:system", {}), runtimes, request_id="job")
    assert refused["lines"][0]["response"]["status_code"] == 404


@pytest.mark.parametrize("text", ["shout", "shout=module", "=a:b"])
def test_a_callable_that_is_written_wrong_is_said(text: str) -> None:
    """With the form that is expected."""
    with pytest.raises(Invalid, match="write model=module:function"):
        callables_from({"WORKERS_CALLABLES": text})


@pytest.mark.parametrize("path", ["no_such_module:x", "math:no_such", "math:pi", ":x"])
def test_a_callable_that_is_not_there_is_said(path: str) -> None:
    """When the model is loaded, with its path."""
    with pytest.raises(Invalid, match="write module:function"), LoadedRuntimes({"WORKERS_CALLABLES": f"x={path}"}).use("x"):
        pass


def test_the_result_says_who_ran_it() -> None:
    """The worker's name stands beside the lines, not in them: they are what OpenAI writes."""
    result = infer.apply(args=[chunk("hash-384", {"input": "x"})]).get()

    assert set(result) == {"lines", "usage", "worker", "busy_ms"}
    assert set(result["lines"][0]) == {"index", "custom_id", "response", "error"}
    assert result["busy_ms"] >= 0


def test_an_alias_is_run_as_the_version_it_was_resolved_to() -> None:
    """The chunk names what its producer asked for; the worker knows which version that is for this job."""
    infer.push_request(id="x", hostname="w@h", dispatch_model="hash-384@7")
    try:
        found = infer.run(chunk("no-such-model", {"input": "a", "model": "no-such-model"}))
    finally:
        infer.pop_request()
    assert found["lines"][0]["response"]["status_code"] == 200
