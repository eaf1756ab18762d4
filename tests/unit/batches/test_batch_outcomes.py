"""What a batch file says of a chunk that nobody finished, without Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import states
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import EncodeError

from dispatcher.batches.lines import Line
from dispatcher.batches.outcomes import Unreadable, may_be_of_one_line, outcome
from dispatcher.batches.results import ResultFiles, succeeded
from dispatcher.core.returns.ending import DEADLINE_PASSED
from dispatcher.errors import JobDead, PoisonJob, Unavailable


@pytest.mark.parametrize(
    ("reason", "code"),
    [(DEADLINE_PASSED, "batch_expired"), ("unknown_model", "model_not_found"), ("worker_died", "job_dead")],
)
def test_a_dead_letter_is_told_in_openais_words(reason: str, code: str) -> None:
    """Where they have one for its reason; the text is the dead letter's own."""
    meta = {"status": states.FAILURE, "result": JobDead(reason, "why")}
    (line,) = outcome(meta, [Line(0, "a", "minilm", "/v1/embeddings", 1, 0, 2)], "p").lines
    assert (line["custom_id"], line["response"], line["error"]) == ("a", None, {"code": code, "message": f"{reason}: why"})


def good(body: Any) -> dict[str, Any]:
    return {"status_code": 200, "request_id": "r", "body": body}


@pytest.mark.parametrize(("answer", "said"), [
    ({}, "the worker returned no answer for this line"),
    ({"response": good("text")}, "the worker gave a str, not a response body: write an object"),
    ({"response": good(None)}, "the worker gave None, not a response body: write an object"),
    ({"response": good({"x": "cut \ud83d"})}, "the worker gave half a surrogate pair at body.x, for which JSON has no form: convert it"),
    ({"response": good({"x": float("nan")})}, "the worker gave the float nan at body.x, for which JSON has no form: convert it"),
    ({"response": good({}) | {"status_code": "200"}}, "the worker gave a str as the status of a response"),
    ({"response": "text"}, "the worker gave a str, not a response body: write an object"),
    ({"error": "text"}, "the worker gave a str, not a response body: write an object"),
])  # fmt: skip
def test_an_answer_that_cannot_be_written_is_an_error_of_its_line(tmp_path: Path, answer: dict[str, Any], said: str) -> None:
    """Whatever the version of the worker that gave it: the other line has its answer, and the file takes both."""
    lines = [Line(n, f"c{n}", "m", "/v1/embeddings", 1, 0, 2) for n in range(2)]
    meta = {"status": states.SUCCESS, "result": {"lines": [{"index": 0} | answer, {"index": 1, "response": good({})}]}}

    bad, other = outcome(meta, lines, "p").lines

    assert succeeded(other)
    assert (bad["response"], bad["error"]) == (None, {"code": "server_error", "message": said})
    with ResultFiles(tmp_path / "out", tmp_path / "bad", resume=False, custom_ids=frozenset({"c0", "c1"})) as files:
        files.append([bad, other])
    assert (files.failed, files.succeeded) == ({"c0"}, {"c1"})


@pytest.mark.parametrize("result", [
    None, [], "text", {}, {"lines": 3}, {"lines": [1, {}, {"index": []}]}, {"lines": [], "usage": [1], "busy_ms": "x", "worker": 7},
])  # fmt: skip
def test_a_result_of_another_shape_is_no_answer(result: Any) -> None:
    """The submission goes on."""
    ended = outcome({"status": states.SUCCESS, "result": result}, [Line(0, "a", "m", "/v1/embeddings", 1, 0, 2)], "p")

    assert [line["error"]["message"] for line in ended.lines] == ["the worker returned no answer for this line"]
    assert (ended.worker, ended.busy_ms, ended.usage) == ("", 0, {})


def test_half_a_pair_in_an_error_is_escaped() -> None:
    """The text of an error is for people: it is written as far as it can be."""
    meta = {"status": states.FAILURE, "result": ValueError("cut \ud83d")}
    (line,) = outcome(meta, [Line(0, "a", "m", "/v1/embeddings", 1, 0, 2)], "p").lines
    assert line["error"]["message"] == "ValueError: cut \\ud83d"


@pytest.mark.parametrize(("error", "is_of_a_line"), [
    *[(JobDead(reason, "why"), True) for reason in ("too_large", "bad_body", "unreadable", "delivery_failed", "worker_died", "time_limit")],
    (PoisonJob("of another version", "why"), True),
    (SoftTimeLimitExceeded(), True),
    (WorkerLostError("exit code 9"), True),
    (MemoryError(), True),
    (EncodeError("no JSON"), True),
    (Unreadable("its result cannot be read"), True),
    *[(JobDead(reason, "why"), False) for reason in (DEADLINE_PASSED, "unknown_model", "purged", "at_most_once", "content_refused")],
    (Unavailable("the weights are missing"), False),
], ids=str)  # fmt: skip
def test_what_a_line_may_have_caused_is_tried_line_by_line(error: Exception, is_of_a_line: bool) -> None:
    """Nothing that is as true of each line by itself, and nothing that must not run again."""
    assert may_be_of_one_line({"status": states.FAILURE, "result": error}) is is_of_a_line
    assert may_be_of_one_line({"status": states.REVOKED, "result": error}) is False
