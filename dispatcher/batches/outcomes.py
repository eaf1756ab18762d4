"""Turns the end of a chunk's task into a result line for each request.

A worker may be of another version, or an app of the user's own: what it says is looked at before it is written, so that
no answer of one line can keep the others from the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import states

from dispatcher.batches.bodies import kind_of, printable, why_no_body
from dispatcher.batches.lines import Line
from dispatcher.batches.results import ResultLine
from dispatcher.core.returns.ending import DEADLINE_PASSED
from dispatcher.errors import JobDead, PoisonJob

_TIME_LIMITS = frozenset({"SoftTimeLimitExceeded", "TimeLimitExceeded"})
_ERROR_CODES = dict.fromkeys(_TIME_LIMITS, "request_timeout") | {"TaskRevokedError": "batch_cancelled"}
_DEAD_CODES = {DEADLINE_PASSED: "batch_expired", "unknown_model": "model_not_found"}
"""Reason of a dead letter → the code that OpenAI uses for it."""
_OF_ITS_BODY = frozenset({
    "too_large", "not_json", "bad_body", "wrong_type", "unreadable", "delivery_failed", "ending_failed",
    "worker_died", "process_died", "time_limit",
})  # fmt: skip
"""Reasons of dead letters that what a line holds, or does where it runs, may have caused."""
_OF_A_RUN = _TIME_LIMITS | {"WorkerLostError", "MemoryError", "RecursionError", "EncodeError"}
"""Errors of a chunk's task that a line may have caused: it ran too long, took its process or too much memory with it,
or no backend can store what it gave.
"""


class Unreadable(Exception):
    """Stands for the result of a chunk of which the backend holds something that is no result."""


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """What a chunk's task left behind."""

    lines: list[ResultLine]
    """A result line for each request."""
    worker: str = ""
    """The node name of the worker that ran it; empty if no worker finished it."""
    busy_ms: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    """OpenAI's counts of tokens, summed over the requests."""


def outcome(meta: dict[str, Any], lines: Sequence[Line], request_prefix: str) -> ChunkOutcome:
    """The outcome of a chunk.

    ``meta`` is Celery's record of its task, in a final state; ``lines`` are the lines that the task was sent. A line
    without an answer, for whatever reason, gets the form that OpenAI uses for requests that did not run: no response,
    but an error with a code.
    """
    if meta["status"] != states.SUCCESS:
        failure = _failure(meta)
        return ChunkOutcome([_line(line, request_prefix, None, failure) for line in lines])
    result = meta["result"] if isinstance(meta["result"], dict) else {}
    given = result.get("lines")
    answers = {
        answer["index"]: answer
        for answer in (given if isinstance(given, list) else ())
        if isinstance(answer, dict) and isinstance(answer.get("index"), int)
    }
    result_lines = [_line(line, request_prefix, *_checked(answers.get(line.index, {}))) for line in lines]
    worker, busy_ms, usage = result.get("worker"), result.get("busy_ms"), result.get("usage")
    return ChunkOutcome(
        result_lines,
        printable(worker) if isinstance(worker, str) else "",
        busy_ms if isinstance(busy_ms, int) else 0,
        {name: count for name, count in (usage if isinstance(usage, dict) else {}).items() if isinstance(count, int)},
    )


def may_be_of_one_line(meta: dict[str, Any]) -> bool:
    """True if the chunk failed of something that one of its lines may have done: no worker could be handed the chunk,
    it killed its workers, took longer than there was time, or left no result that can be read. Run by themselves, the
    other lines may be answered.
    """
    if meta["status"] != states.FAILURE:
        return False
    error = meta["result"]
    if isinstance(error, JobDead):
        return isinstance(error, PoisonJob) or error.reason in _OF_ITS_BODY
    return isinstance(error, Unreadable) or type(error).__name__ in _OF_A_RUN


def not_sent(line: Line, request_prefix: str, why: str) -> ResultLine:
    """The result of a line that could not be sent."""
    error = {"code": "invalid_request", "message": printable(f"it was not sent: {why}")}
    return _line(line, request_prefix, None, error)


def _checked(answer: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The response and the error that the worker gave for a line; where a result line cannot hold them, an error that
    says why.
    """
    response, error = answer.get("response"), answer.get("error")
    if not response and not error:
        return None, {"code": "server_error", "message": "the worker returned no answer for this line"}
    reason = (response is not None and _why_no_response(response)) or (error is not None and why_no_body(error))
    if reason:
        return None, {"code": "server_error", "message": f"the worker gave {reason}"}
    return response, error


def _why_no_response(response: object) -> str | None:
    if isinstance(response, dict):
        status, body = response.get("status_code"), response.get("body")
        if not isinstance(status, int):
            return f"{kind_of(status)} as the status of a response"
        if not isinstance(body, dict):
            return why_no_body(body)
    return why_no_body(response)


def _line(line: Line, prefix: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> ResultLine:
    name = hashlib.blake2b(f"{prefix}/{line.index}".encode(), digest_size=16).hexdigest()
    return {"id": f"batch_req_{name}", "custom_id": line.custom_id, "response": response, "error": error}


def _failure(meta: dict[str, Any]) -> dict[str, str]:
    if meta["status"] == states.REVOKED:
        return {"code": "batch_cancelled", "message": "the request was revoked before it was answered"}
    error = meta["result"]
    name = type(error).__name__
    if isinstance(error, JobDead):
        return {"code": _DEAD_CODES.get(error.reason, "job_dead"), "message": printable(str(error))}
    return {"code": _ERROR_CODES.get(name, "server_error"), "message": printable(f"{name}: {error}")}
