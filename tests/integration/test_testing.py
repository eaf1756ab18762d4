"""What a project's own tests meet, and the cell that ``dispatcher.testing`` gives them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord
from celery.contrib.testing.worker import start_worker
from celery.utils.imports import symbol_by_name

from dispatcher import Invalid, JobDead, Settings, job_headers
from dispatcher.testing import dispatched
from dispatcher.testing.pointing import ENVIRONMENT
from dispatcher.worker import attach
from dispatcher.worker.life import leader_watch
from tests.eventually import eventually
from tests.redis_server import RedisServer
from tests.worker_harness import open_cell

ROOT = Path(__file__).parents[2]
PRODUCTION = "redis://production.invalid:6379/0"


def make_app(broker: str = "memory://", backend: str = "cache+memory://", **conf: Any) -> Celery:
    """A user's app; any broker will do."""
    app = Celery("proj", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(worker_hijack_root_logger=False, **conf)

    @app.task(name="where", shared=False)
    def where() -> int:
        return os.getpid()

    @app.task(name="total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="ask", shared=False, bind=True)
    def ask(self: Any) -> str:
        """Sends a job, as tasks do."""
        self.app.tasks["where"].delay()
        return str((self.request.headers or {}).get("dispatch"))

    attach(app)
    return app


@pytest.fixture
def memory() -> Iterator[Celery]:
    with make_app() as app:
        yield app


def runs_here(app: Celery) -> bool:
    return app.tasks["where"].delay().get(timeout=20) == os.getpid()


# -- without a dispatcher


def test_eager_jobs_run_where_they_are_sent() -> None:
    """With what they say of themselves, though no Redis answers: no server is asked."""
    app = make_app(PRODUCTION, PRODUCTION, task_always_eager=True)
    headers = job_headers(model="chat", session="s")
    assert runs_here(app)
    assert app.tasks["ask"].apply_async(headers=headers).get() == str(headers["dispatch"])


def test_a_worker_that_nobody_dispatches_to_says_so(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether no dispatcher came, or it went away; where Celery's helper for tests started the worker, it names ours. And the worker
    says once, when it starts, that it is attached.
    """
    monkeypatch.setattr(leader_watch, "LEADERLESS_MAX_S", 0.3)

    def said(what: str) -> int:
        return sum(record.message.startswith(what) for record in caplog.records)

    with open_cell(redis_url, tmp_path, dispatcher=False) as cell, cell.in_process(loglevel="INFO"):
        eventually(lambda: said("no dispatcher leads this cell: in tests, start the worker by `dispatched` of dispatcher.testing") == 1)
        cell.start_dispatcher()
        eventually(lambda: said("a dispatcher leads this cell now: dispatch") == 1)
        cell.stop_dispatcher()
        eventually(lambda: said("no dispatcher leads this cell: ") == 2)
    assert said("attached to cell dispatch: queues dispatch; weight 1; no models; no labels; ") == 1


# -- with the cell that we ship


def test_a_cell_runs_in_the_process_of_the_test(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs of an app for other servers are dispatched and run here: chords, dead letters, tasks that the test adds, what tasks send; and
    the test reads the logs.
    """
    with redis_server.client() as client:
        client.flushall()
    app = make_app(PRODUCTION, PRODUCTION, task_always_eager=True, broker_use_ssl={"ssl_cert_reqs": None}, redis_password="secret")
    caplog.set_level(logging.INFO)
    with dispatched(app, redis_url=redis_server.url(1), concurrency=3, models="chat") as cell:
        assert runs_here(app)
        headers = job_headers(model="chat")
        assert app.tasks["ask"].apply_async(headers=headers).get(timeout=20) == str(headers["dispatch"])
        with pytest.raises(JobDead, match="unknown_model"):
            app.tasks["where"].apply_async(headers=job_headers(model="chatt")).get(timeout=20)

        @app.task(name="double", shared=False)
        def double(number: int) -> int:
            return 2 * number

        cell.worker.reload()
        assert chord((double.s(number) for number in range(3)), app.tasks["total"].s()).delay().get(timeout=20) == 6
        (worker,) = cell.status()["workers"]
        assert (worker["name"], worker["concurrency"], worker["models"]) == (cell.worker.hostname, 3, ["chat"])
        assert redis.Redis.from_url(cell.redis_url).dbsize() > 0
    with redis_server.client(1) as client:
        assert client.dbsize() == 0
    assert [record.message for record in caplog.records if record.message.startswith("attached to cell")]


def test_an_app_is_after_the_cell_what_it_was(
    redis_server: RedisServer, memory: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Configuration, environment, tasks and results; its worker on memory is a plain one, which says so, takes the options of dispatched
    workers, and runs its jobs, those that tasks send too.
    """
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "memory://" if "BROKER" in name else "cache+memory://")
    with redis_server.client() as client:
        client.flushall()
    task, changes = memory.tasks["ask"], dict(memory.conf.changes)
    facts = task.acks_late, task.reject_on_worker_lost, task.Request, type(memory.amqp)
    early = memory.tasks["where"].delay()
    with dispatched(memory, redis_url=redis_server.url(1), pool="solo"):
        assert task.acks_late
        assert task.delay().get(timeout=20) == "None"
    assert dict(memory.conf.changes) == changes
    assert (task.acks_late, task.reject_on_worker_lost, symbol_by_name(task.Request), type(memory.amqp)) == (
        *facts[:2], symbol_by_name(facts[2]), facts[3],
    )  # fmt: skip
    assert {os.environ[name] for name in ENVIRONMENT} == {"memory://", "cache+memory://"}
    with start_worker(memory, perform_ping_check=False, loglevel="INFO", weight=2) as worker:
        assert not hasattr(worker, "dispatched")
        assert early.get(timeout=20) == os.getpid()
        assert task.delay().get(timeout=20) == "None"
        assert memory.control.purge() == 0
    (said,) = [record.message for record in caplog.records if "nothing is dispatched" in record.message]
    assert said.startswith("this app's broker is memory://")


def test_a_cell_that_cannot_be_is_refused_in_one_sentence(redis_server: RedisServer, memory: Celery) -> None:
    """What somebody has in a database is not lost; and the app is left as it was."""
    url = redis_server.url(2)
    with redis_server.client(2) as client:
        client.set("precious", 1)
        for app, options, why in (
            (memory, {}, "is not empty: name another"),
            (memory, {"pool": "prefork"}, "choose threads or solo"),
            (Celery("bare", set_as_current=False), {}, "the app 'bare' is not attached"),
        ):
            with pytest.raises(Invalid, match=why), dispatched(app, redis_url=url, **options):
                pass
        assert client.get("precious") == b"1"
        client.flushdb()
    attach(memory, Settings(lease_ttl_s=0.1))
    with pytest.raises(Invalid, match="LEASE_TTL_S"), dispatched(memory, redis_url=url):
        pass
    assert memory.conf.broker_url == "memory://"


def test_the_example_project_passes(tmp_path: Path) -> None:
    """The fixtures as a user has them, beside Celery's, with a Redis that the plugin starts; pytest has nothing to warn of, and nothing
    is left.
    """
    for file in (ROOT / "examples/own_app").glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    options = ["-q", "-p", "no:cacheprovider", "-p", "celery.contrib.pytest", "-W", "error::pytest.PytestWarning"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert not list(tmp_path.glob("dispatcher-test-*"))
