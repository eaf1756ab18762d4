"""Runs one chunk of a batch: every line gets an answer of its own, and a bad line harms no other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from copy import copy
from typing import Any

from billiard.common import terminate_handler_fired
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate

from dispatcher.batches.bodies import kind_of, printable, why_no_body
from dispatcher.errors import DispatcherError
from workers.runtimes import Answer, Body, LoadedRuntimes, Rejected, Runtime

_NO_LINE_DID_IT = (SoftTimeLimitExceeded, Retry, DispatcherError, WorkerShutdown, WorkerTerminate)
"""The time is up, the task wants a retry, the worker lacks something or is ending. The chunk ends."""

USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")


def run_chunk(
    chunk: dict[str, Any], runtimes: LoadedRuntimes, *, request_id: str, may_exit: bool = False
) -> dict[str, Any]:
    """``{"lines": [{"index", "custom_id", "response", "error"}], "usage": {...}}``, the lines in the order given.

    ``chunk`` is ``{"model", "url", "lines": [{"index", "custom_id", "body"}]}``. ``error`` is always ``None`` here:
    whatever happened to a line, it got an HTTP-like answer. ``DispatcherError`` (weights missing) and time limits rise;
    a line that kills the process is for :mod:`workers.apart`. ``SystemExit`` of a model is the failure of its line, for
    the process is not the model's to end; it rises where ``may_exit`` says that the process is there for the line.
    """
    lines = chunk["lines"]
    bodies = [line["body"] for line in lines]
    try:
        with runtimes.use(chunk["model"]) as runtime:
            if runtime.endpoints and chunk["url"] not in runtime.endpoints:
                raise Rejected(400, f"The model {chunk['model']!r} does not serve {chunk['url']}.", "url", "unsupported_endpoint")
            answers = answer_each(runtime, bodies, may_exit=may_exit)
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


def answer_each(runtime: Runtime, bodies: list[Body], *, may_exit: bool = False) -> list[Answer]:
    """One answer a body. A batch that fails is run again in halves, until the line that makes it fail stands alone.

    With k bad lines among n this costs at most about 2·k·log2(n) further runs. An answer that is no response body is
    the failure of its line, and nothing runs again for it.
    """
    if not bodies:
        return []
    try:
        answers = runtime.run([copy(body) for body in bodies])  # the model may empty what it is given; halves need it
        if len(answers) != len(bodies):
            raise RuntimeError(f"the model gave {len(answers)} answers to {len(bodies)} requests")
        return [checked(answer) for answer in answers]
    except Rejected as refusal:
        failure = checked(refusal)
    except BaseException as exc:
        if any(isinstance(cause, SoftTimeLimitExceeded) for cause in _causes(exc)):
            raise SoftTimeLimitExceeded from exc  # it comes but once: what ran on would have no limit
        if not _is_of_a_line(exc) or (may_exit and isinstance(exc, SystemExit)):
            raise
        failure = failed(exc)
    if len(bodies) == 1:
        return [failure]
    middle = len(bodies) // 2
    halves = bodies[:middle], bodies[middle:]
    return [answer for half in halves for answer in answer_each(runtime, half, may_exit=may_exit)]


def _is_of_a_line(exc: BaseException) -> bool:
    """True if the model raised it, of whatever class: a cancelled coroutine and Rust's panics are no ``Exception``."""
    if terminate_handler_fired():  # the pool ends this process by a signal, whose handler raised SystemExit
        return False
    if isinstance(exc, KeyboardInterrupt):  # a person's, unless a pool or a worker has taken Ctrl-C for itself
        return signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    return not isinstance(exc, _NO_LINE_DID_IT) and not (isinstance(exc, Reject) and exc.requeue)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The error, and what was raised before it: a model may wrap whatever it is interrupted by."""
    seen: set[int] = set()
    step: BaseException | None = exc
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__


def checked(answer: Any) -> Answer:
    """The answer, if a result line can hold it; else a refusal that says what came instead."""
    if isinstance(answer, Rejected):
        return _checked_refusal(answer)
    if isinstance(answer, BaseException):  # as asyncio.gather returns them
        return failed(answer)
    reason = why_no_body(answer)
    return answer if reason is None else Rejected(500, f"the model gave {reason}")


def _checked_refusal(refusal: Rejected) -> Rejected:
    status: Any = refusal.status_code
    message, param, code = refusal.message, refusal.param, refusal.code
    if not isinstance(status, int) or not 400 <= status <= 599:
        status = printable(repr(status))
        return Rejected(500, f"the model refused the request with the status {status}, which is none of 400 to 599")
    texts: list[Any] = [message, param or "", code or ""]
    for text in texts:
        if not isinstance(text, str):
            return Rejected(500, f"the model refused the request with {kind_of(text)} where a text belongs")
    return Rejected(status, printable(message), param and printable(param), code and printable(code))


def failed(exc: BaseException) -> Rejected:
    """The answer to a line whose run raised this."""
    name = type(exc).__name__
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  # the model's own class
        text = ""
    return Rejected(500, printable(f"{name}: {text}" if text else name))


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
