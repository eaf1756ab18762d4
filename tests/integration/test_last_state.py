"""A retry that is over before the state of the run that asked for it is stored."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from celery import Celery, states
from celery.exceptions import Retry

from dispatcher.store.redis_client.connection import celery_url
from dispatcher.worker.patches.last_state import keep_last_state


@pytest.fixture
def app(redis_url: str) -> Celery:
    keep_last_state()
    return Celery("last", broker=celery_url(redis_url), backend=celery_url(redis_url), set_as_current=False)


def retry_while(app: Celery, meanwhile: Callable[[], object], look: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RETRY is stored; ``meanwhile`` comes right after that look at what is stored: the first is Celery's, the second ours."""
    client: Any = app.backend.client
    get, looks = client.get, count(1)

    def read(key: Any) -> Any:
        found = get(key)
        if next(looks) == look:
            meanwhile()
        return found

    monkeypatch.setattr(client, "get", read)
    app.backend.store_result("job", Retry("again"), states.RETRY)
    assert next(looks) > look


@pytest.mark.parametrize("look", [1, 2])
@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE, states.REVOKED])
def test_what_the_last_run_said_is_the_last_word(
    app: Celery, state: str, look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever between the two it is stored."""

    def end() -> None:
        app.backend.set(
            app.backend.get_key_for_task("job"), app.backend.encode({"status": state, "result": None, "task_id": "job"})
        )

    retry_while(app, end, look, monkeypatch)
    assert app.AsyncResult("job").state == state


def test_a_retry_is_told(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ever, where the job goes on: over nothing, over what is not final and comes just then, and for as long as results are kept."""
    key = app.backend.get_key_for_task("job")
    started = app.backend.encode({"status": states.STARTED, "result": None, "task_id": "job"})
    retry_while(app, lambda: app.backend.set(key, started), 2, monkeypatch)
    assert app.AsyncResult("job").state == states.RETRY
    assert app.backend.client.ttl(key) > 86_000


def test_results_may_be_kept_for_ever(app: Celery) -> None:
    """``result_expires = None``."""
    app.conf.result_expires = None
    app.backend.expires = None
    app.backend.store_result("job", Retry("again"), states.RETRY)
    assert app.backend.client.ttl(app.backend.get_key_for_task("job")) == -1
