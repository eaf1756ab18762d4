"""Turns the end of a chunk's task into a result line for each request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import states

from dispatcher.batches.lines import Line
from dispatcher.batches.results import ResultLine
from dispatcher.core.returns.ending import DEADLINE_PASSED
from dispatcher.errors import JobDead

_ERROR_CODES = {
    "SoftTimeLimitExceeded": "request_timeout",
    "TimeLimitExceeded": "request_timeout",
    "TaskRevokedError": "batch_cancelled",
}
_DEAD_CODES = {DEADLINE_PASSED: "batch_expired", "unknown_model": "model_not_found"}
"""Reason of a dead letter → the code that OpenAI uses for it."""


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
    answers = {
        answer["index"]: answer
        for answer in result.get("lines", ())
        if isinstance(answer, dict) and "index" in answer
    }
    missing = {"code": "server_error", "message": "the worker returned no answer for this line"}
    result_lines = []
    for line in lines:
        answer = answers.get(line.index, {})
        response, error = answer.get("response"), answer.get("error")
        result_lines.append(_line(line, request_prefix, response, error if response or error else missing))
    worker, busy_ms, usage = str(result.get("worker", "")), int(result.get("busy_ms", 0)), result.get("usage") or {}
    return ChunkOutcome(result_lines, worker, busy_ms, usage)


def _line(line: Line, prefix: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> ResultLine:
    name = hashlib.blake2b(f"{prefix}/{line.index}".encode(), digest_size=16).hexdigest()
    return {"id": f"batch_req_{name}", "custom_id": line.custom_id, "response": response, "error": error}


def _failure(meta: dict[str, Any]) -> dict[str, str]:
    if meta["status"] == states.REVOKED:
        return {"code": "batch_cancelled", "message": "the request was revoked before it was answered"}
    error = meta["result"]
    name = type(error).__name__
    if isinstance(error, JobDead):
        return {"code": _DEAD_CODES.get(error.reason, "job_dead"), "message": str(error)}
    return {"code": _ERROR_CODES.get(name, "server_error"), "message": f"{name}: {error}"}
