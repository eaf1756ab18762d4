"""Runs one chunk of a batch: every line gets an answer of its own, and a bad line harms no other."""

from __future__ import annotations

from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, TaskPredicate

from dispatcher.errors import DispatcherError
from workers.runtimes import Answer, Body, LoadedRuntimes, Rejected, Runtime

_FOR_CELERY = (SoftTimeLimitExceeded, TaskPredicate, DispatcherError)
"""Not the fault of a line: the time is up, the task wants a retry, or the worker lacks something. The chunk ends."""

USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")


def run_chunk(chunk: dict[str, Any], runtimes: LoadedRuntimes, *, request_id: str) -> dict[str, Any]:
    """``{"lines": [{"index", "custom_id", "response", "error"}], "usage": {...}}``, the lines in the order given.

    ``chunk`` is ``{"model", "url", "lines": [{"index", "custom_id", "body"}]}``. ``error`` is always ``None`` here:
    whatever happened to a line, it got an HTTP-like answer. ``DispatcherError`` (weights missing) and time limits rise;
    a line that kills the process is for :mod:`workers.apart`.
    """
    lines = chunk["lines"]
    bodies = [line["body"] for line in lines]
    try:
        with runtimes.use(chunk["model"]) as runtime:
            if runtime.endpoints and chunk["url"] not in runtime.endpoints:
                raise Rejected(400, f"The model {chunk['model']!r} does not serve {chunk['url']}.", "url", "unsupported_endpoint")
            answers = answer_each(runtime, bodies)
    except Rejected as refusal:
        answers = [refusal] * len(bodies)
    return {
        "lines": [{
            "index": line["index"],
            "custom_id": line["custom_id"],
            "response": as_response(answer, f"{request_id}-{line['index']}"),
            "error": None,
        } for line, answer in zip(lines, answers, strict=True)],
        "usage": total_usage(answers),
    }


def answer_each(runtime: Runtime, bodies: list[Body]) -> list[Answer]:
    """One answer a body. A batch that fails is run again in halves, until the line that makes it fail stands alone.

    With k bad lines among n this costs at most about 2·k·log2(n) further runs.
    """
    if not bodies:
        return []
    try:
        answers = runtime.run(bodies)
        if len(answers) != len(bodies):
            raise RuntimeError(f"the model gave {len(answers)} answers to {len(bodies)} requests")
        return answers
    except _FOR_CELERY:
        raise
    except Rejected as refusal:
        failure = refusal
    except Exception as exc:  # noqa: BLE001  # whatever the model raises is an answer to somebody's line
        failure = Rejected(500, f"{type(exc).__name__}: {exc}")
    if len(bodies) == 1:
        return [failure]
    middle = len(bodies) // 2
    return answer_each(runtime, bodies[:middle]) + answer_each(runtime, bodies[middle:])


def as_response(answer: Answer, request_id: str) -> dict[str, Any]:
    """An answer as the ``response`` of a batch output line."""
    if isinstance(answer, Rejected):
        kind = "invalid_request_error" if answer.status_code < 500 else "server_error"
        error = {"message": answer.message, "type": kind, "param": answer.param, "code": answer.code}
        return {"status_code": answer.status_code, "request_id": request_id, "body": {"error": error}}
    return {"status_code": 200, "request_id": request_id, "body": answer}


def total_usage(answers: list[Answer]) -> dict[str, int]:
    """The sum of what the answers say they used."""
    totals = dict.fromkeys(USAGE_FIELDS, 0)
    for answer in answers:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        for field in USAGE_FIELDS:
            count = usage.get(field) if isinstance(usage, dict) else None
            totals[field] += count if isinstance(count, int) else 0
    return totals
