"""One task for each thing that Celery lets a task be: retried, replaced, limited, stamped, told of failures."""

from __future__ import annotations

import time
from typing import Any

from celery.exceptions import Reject, SoftTimeLimitExceeded

from tests.process.app import app, note


@app.task(name="facts", bind=True)
def facts(self: Any) -> dict[str, Any]:
    """What a bound task knows of itself."""
    note("start")
    request = self.request
    return {
        "name": self.name,
        "id": request.id,
        "retries": request.retries,
        "priority": request.delivery_info["priority"],
        "routing_key": request.delivery_info["routing_key"],
        "redelivered": request.delivery_info["redelivered"],
        "stamps": request.stamps,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "eta": request.eta,
    }


@app.task(name="request", bind=True)
def request(self: Any, *_args: Any, retries: int = 0) -> dict[str, str]:
    """Every attribute of ``self.request``, in the last run of those asked for."""
    if self.request.retries < retries:
        raise self.retry(countdown=0.1)
    names = {*dir(type(self.request)), *vars(self.request)}
    values = {name: getattr(self.request, name) for name in sorted(names) if not name.startswith("_")}
    return {name: repr(value) for name, value in values.items() if not callable(value)}


@app.task(name="fail")
def fail(*_args: Any) -> None:
    note("start")
    raise ValueError("as asked")


@app.task(name="told")
def told(what: Any) -> None:
    """A callback or an errback: notes that it was called."""
    note(f"told {what}")


@app.task(name="twice")
def twice(number: int) -> int:
    return 2 * number


@app.task(name="again", bind=True, max_retries=2)
def again(self: Any, countdown: float) -> int:
    """Retries twice."""
    note("start")
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


@app.task(name="auto", bind=True, autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=0.2)
def auto(self: Any, fails: int) -> int:
    """Retried by Celery as often as it fails, twice at most."""
    note("start")
    if self.request.retries < fails:
        raise ConnectionError("the other side is away")
    return int(self.request.retries)


@app.task(name="replaced", bind=True)
def replaced(self: Any, a: int) -> None:
    note("start")
    raise self.replace(app.signature("add", args=(a, 1000)))


@app.task(name="soft", soft_time_limit=1)
def soft() -> str:
    note("start")
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "cut short"
    return "not cut"


@app.task(name="hard", time_limit=1)
def hard() -> None:
    note("start")
    time.sleep(60)


@app.task(name="dropped", acks_on_failure_or_timeout=False)
def dropped() -> None:
    note("start")
    raise ValueError("as asked")


@app.task(name="refused")
def refused() -> None:
    note("start")
    raise Reject("as asked", requeue=False)


@app.task(name="limited", rate_limit="5/s")
def limited() -> None:
    note("start")


@app.task(name="quiet", ignore_result=True)
def quiet() -> int:
    note("start")
    return 1
