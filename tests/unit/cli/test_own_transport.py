"""An app that reaches Redis by a transport of its own: its messages are nowhere that a dispatcher looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery
from click.testing import CliRunner
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from dispatcher.cli import cli
from dispatcher.worker.leasing.transport import transport_for
from dispatcher.worker.refusal import WorkerRefused

HERE = "tests.unit.cli.test_own_transport"


class Transport(virtual.Transport):
    """Would keep its messages in other keys of the same Redis."""

    driver_type = driver_name = "redis"


class Kept(kombu_redis.Transport):
    """kombu's own, with something added: its keys are the same."""


def app_of(url: str, transport: str) -> Celery:
    app = Celery("other", broker=url, set_as_current=False)
    app.conf.broker_transport = f"{HERE}:{transport}"
    return app


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_command_refuses_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, before it asks Redis, and says which transport is wanted."""
    source = f"from {HERE} import app_of\napp = app_of('redis://127.0.0.1:1/0', 'Transport')\n"
    (tmp_path / f"other_{command}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(cli, ["-A", f"other_{command}", command])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"another transport, {HERE}:Transport, " in result.stderr
    assert "use kombu's own; remove broker_transport" in result.stderr


def test_a_worker_refuses_it() -> None:
    """In the same words; what only adds to kombu's own is served."""
    with pytest.raises(WorkerRefused, match=r"another transport, .*:Transport, .* remove broker_transport"):
        transport_for(app_of("redis://localhost", "Transport").connection_for_read())
    assert "Lease" in transport_for(app_of("redis://localhost", "Kept").connection_for_read()).__name__
