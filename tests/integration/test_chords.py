"""Chords whose last header dies before it has sent the body."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from dispatcher.store.connection import celery_url, connect
from dispatcher.worker.chords import keep_chords


class Killed(BaseException):
    """What no handler catches, as SIGKILL."""


@pytest.fixture
def app(redis_url: str) -> Celery:
    keep_chords()
    app = Celery("chords", broker=celery_url(redis_url), backend=celery_url(redis_url), set_as_current=False)
    app.conf.update(task_default_queue="dispatch", result_backend_thread_safe=True)
    app.backend.on_task_call = app.backend.remove_pending_result = lambda *_: None
    app.backend.set_chord_size("group", 2)
    return app


def count(app: Celery, header: str, *, again: bool = False) -> None:
    """A run of a header ends."""
    body = app.signature("total", task_id="body")
    request: Any = SimpleNamespace(
        id=header, group="group", group_index=int(header[-1]), chord=body, delivery_info={"redelivered": again}
    )
    app.backend.on_chord_part_return(request, "SUCCESS", 1)


def sent(redis_url: str) -> int:
    client: redis.Redis = connect(redis_url)
    return int(client.llen("dispatch"))


def kill_before_the_body(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last header is counted and has claimed the chord; then its process is gone."""

    def killed(**_: Any) -> None:
        raise Killed

    count(app, "header0")
    with monkeypatch.context() as patch:
        patch.setitem(app.backend.__dict__, "_chord_claim_extend_script", killed)
        with pytest.raises(Killed):
            count(app, "header1")


def test_the_next_run_of_a_header_that_died_with_the_claim_sends_the_body(
    app: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: later copies of any header send nothing."""
    kill_before_the_body(app, monkeypatch)
    assert sent(redis_url) == 0
    count(app, "header1", again=True)
    assert sent(redis_url) == 1
    count(app, "header1", again=True)
    count(app, "header0", again=True)
    assert sent(redis_url) == 1


def test_the_claim_of_another_header_is_respected(app: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it may be alive, and about to send the body."""
    kill_before_the_body(app, monkeypatch)
    count(app, "header0", again=True)
    assert sent(redis_url) == 0


def test_a_chord_whose_headers_all_end_well_sends_its_body_once(app: Celery, redis_url: str) -> None:
    """As ever."""
    count(app, "header0")
    assert sent(redis_url) == 0
    count(app, "header1")
    assert sent(redis_url) == 1
