"""``dispatcher health``: 0 exactly where the part asked about is ready, else 1 and one sentence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import cli
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, WorkerStore

EPOCH = "0123456789ab"
Health = Callable[..., Result]


@pytest.fixture
def health(redis_url: str) -> Health:
    return lambda *args: CliRunner().invoke(cli, ["--redis-url", redis_url, "health", *args])


def test_a_leader_is_what_makes_a_cell_healthy(health: Health, redis_url: str) -> None:
    """Redis alone is not enough."""
    assert health().exit_code == 1
    assert health().stderr == "dispatcher: no dispatcher leads: start one with `dispatcher run`\n"

    connect(redis_url).set(Keys().leader, "a random id")
    assert health().exit_code == 0


def test_a_worker_is_healthy_when_it_beats(health: Health, redis_url: str) -> None:
    """Unknown, starting and silent workers are not; one that has beaten just now is."""
    client, keys = connect(redis_url), Keys()
    client.set(keys.leader, "a random id")
    assert "no worker 'w1@host' lives" in health("--worker", "w1@host").stderr

    store = WorkerStore(client, keys, EPOCH)
    store.register(Registration("w1@host", "host", 7, 2))
    assert "is starting" in health("--worker", "w1@host").stderr

    store.heartbeat({"done": 0, "failed": 0, "running": 0})
    assert health("--worker", "w1@host").exit_code == 0
    assert health("--worker", "w2@host").exit_code == 1

    client.pexpire(keys.alive(EPOCH), ALIVE_TTL_MS - 60_000)
    assert "silent for 60 s" in health("--worker", "w1@host").stderr


def test_a_redis_that_is_away(redis_url: str) -> None:
    """Exit code 1, not a traceback."""
    result = CliRunner().invoke(cli, ["--redis-url", "unix:///nowhere/redis.sock", "health"])

    assert result.exit_code == 1
    assert "does not answer" in result.stderr


def test_flower_is_healthy_when_it_sees_a_dispatcher(health: Health) -> None:
    """A Flower that answers but sees nobody is not ready."""
    rows: list[dict[str, Any]] = [{"hostname": "w1@host", "status": True}, {"hostname": "dispatcher@host", "status": False}]
    logins: list[str | None] = []

    class Flower(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logins.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": rows}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Flower) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert "sees no dispatcher online, only w1@host" in health("--flower", url).stderr
        rows[1]["status"] = True
        assert health("--flower", url).exit_code == 0
        server.shutdown()
    assert logins == [None, None]

    assert "does not answer" in health("--flower", url).stderr
    assert health("--flower", "localhost:5555").exit_code == 2


def test_the_login_of_flower_is_sent_and_never_shown(health: Health) -> None:
    """Flower gets what stands in its URL; the error that it refuses, and the one for a URL that cannot be read, show the user alone."""
    logins: list[str | None] = []

    class Flower(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logins.append(self.headers["Authorization"])
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Flower) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refused = health("--flower", f"http://me:hidden%20word@127.0.0.1:{server.server_port}")
        server.shutdown()
    assert logins == ["Basic " + base64.b64encode(b"me:hidden word").decode()]
    assert "401 Unauthorized" in refused.stderr
    unreadable = health("--flower", "http://me:hidden#word@127.0.0.1:5555")
    assert [refused.exit_code, unreadable.exit_code] == [1, 2]
    assert [one for one in (refused, unreadable) if "hidden" in one.output or "me:" not in one.stderr] == []
