"""Chords whose last header dies before it has sent the body."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.worker.patches.chords import keep_chords
from tests.proxy import Proxy
from tests.redis_server import RedisServer

AWAY_S = 2.0
"""Longer than redis-py tries by itself."""


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


def test_a_request_made_by_hand_counts(app: Celery, redis_url: str) -> None:
    """Celery reads four attributes of it, and it may have no others."""
    for index in range(2):
        body = app.signature("total", task_id="body")
        request: Any = SimpleNamespace(id=f"header-{index}", group="group", group_index=index, chord=body)
        app.backend.on_chord_part_return(request, "SUCCESS", index)
    with connect(redis_url) as client:
        assert client.llen("dispatch") == 1


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


@pytest.mark.parametrize("script", ["_chord_part_return_script", "_chord_claim_extend_script", "_chord_cleanup_script"])
@pytest.mark.parametrize("answered", [False, True])
def test_an_outage_costs_no_body(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, script: str, answered: bool
) -> None:
    """It begins before a script of the chord has reached Redis, or after it has run there and before its answer: the body is sent once."""
    proxy = Proxy(redis_server.socket)
    keep_chords()
    app = Celery("chords", broker=celery_url(redis_url), backend=proxy.url(), set_as_current=False)
    app.conf.update(task_default_queue="dispatch", result_backend_thread_safe=True)
    app.backend.on_task_call = app.backend.remove_pending_result = lambda *_: None
    app.backend.set_chord_size("group", 2)
    count(app, "header0")
    real, asked = getattr(app.backend, script), []

    def breaks(*, keys: list[str], args: list[Any], client: redis.Redis) -> Any:
        if not asked:
            if answered:
                real(keys=keys, args=args, client=client)
            proxy.refuse()
            threading.Timer(AWAY_S, proxy.accept).start()
        asked.append(keys)
        return real(keys=keys, args=args, client=client)

    monkeypatch.setitem(app.backend.__dict__, script, breaks)
    try:
        count(app, "header1")
    finally:
        proxy.close()
    assert asked
    assert sent(redis_url) == 1
