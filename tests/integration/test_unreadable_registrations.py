"""A worker's registration in Redis is malformed: every command that reads registrations works for the other workers, or says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import cli
from dispatcher.clock import ManualClock
from dispatcher.observe.cell_reader import CellReader
from dispatcher.provision.autoscaler import Autoscaler
from dispatcher.provision.base import WorkerKind
from dispatcher.store.registration import Registrations
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.integration.stage import Stage

EPOCH = "0123456789ab"
NO_REGISTRATIONS = {
    "cut short": b'{"name": 7',
    "no JSON": b"\xff\xfe",
    "no object": b"[]",
    "too deep": b"[" * 100_000,
    "no slots": b'{"name": "w", "host": "h", "pid": 1, "concurrency": 0}',
    "missing": None,
}


@pytest.fixture(params=NO_REGISTRATIONS)
def stage(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A cell that is led, with worker ``good`` and with a live worker whose registration cannot be read."""
    made = Stage(redis_url)
    made.worker("good", models=("chat@1", "chat@2"))  # a window of 3
    made.text.sadd(made.keys.workers, EPOCH)
    made.text.set(made.keys.alive(EPOCH), "1", px=ALIVE_TTL_MS)
    if (text := NO_REGISTRATIONS[request.param]) is not None:
        made.client.hset(made.keys.worker(EPOCH), "registration", text)
    made.step()
    yield made
    made.close()


def run(stage: Stage, *args: str) -> Result:
    """What a command says; a traceback would be an exception of another kind."""
    result = CliRunner().invoke(cli, ["--redis-url", stage.url, *args])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def test_rollout(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """set, promote, back and status count the models of the readable workers, and name the other one."""
    assert run(stage, "rollout", "set", "chat", "chat@1=100").exit_code == 0
    assert f"the registration of worker {EPOCH} cannot be read" in caplog.text
    assert run(stage, "rollout", "set", "chat", "chat@2=5").exit_code == 0
    assert run(stage, "rollout", "promote", "chat").exit_code == 0
    assert run(stage, "rollout", "back", "chat").exit_code == 0
    assert "chat@1" in run(stage, "rollout", "status").stdout
    refused = run(stage, "rollout", "set", "chat", "chat@3=5")
    assert (refused.exit_code, "no worker serves chat@3" in refused.stderr) == (2, True)


def test_looking(stage: Stage) -> None:
    """`status` names the key that is passed over; `status`, `top` and `health` show the other worker."""
    (job,) = stage.send()
    stage.step()
    facts = json.loads(run(stage, "status", "--json").stdout)
    assert facts["unreadable"] == [stage.keys.worker(EPOCH)]
    assert "good@h" in [worker["name"] for worker in facts["workers"]]
    assert "cannot be read, and is passed over" in run(stage, "status").stdout
    assert "good@h" in run(stage, "top", "--once").stdout
    assert run(stage, "health", "--worker", "good@h").exit_code == 1  # it has not beaten yet
    assert "leased to good@h" in run(stage, "explain", job).stdout
    *_, waits = stage.send(9)
    stage.step()
    said = run(stage, "explain", waits).stdout
    assert ("waits in lane" in said, "good@h" in said) == (True, True)


def test_workers_and_queues(stage: Stage) -> None:
    """drain, undrain, pause, resume, release and purge."""
    assert run(stage, "drain", "good", "--keep").exit_code == 0
    assert run(stage, "undrain", "good").exit_code == 0
    assert "no worker 'none' lives" in run(stage, "drain", "none").stderr
    assert run(stage, "pause").exit_code == 0
    assert run(stage, "resume").exit_code == 0
    assert run(stage, "release").exit_code == 0
    assert run(stage, "purge", "--force").exit_code == 0


def test_the_autoscaler_and_flowers_node(stage: Stage) -> None:
    """They see the worker whose registration can be read."""
    autoscaler = Autoscaler(
        stage.client, stage.keys, stage.settings, kinds=[WorkerKind("small", 1.0)], provisioner=None, clock=ManualClock(0),
        emit=stage.events.append,
    )  # fmt: skip
    assert autoscaler.step().workers == 1
    assert [worker.name for worker in CellReader(stage.text, stage.keys).live_workers()] == ["good@h"]


def test_a_registration_is_read_once(redis_url: str) -> None:
    """And forgotten when its worker is; what cannot be read is asked for again, for it may be there later."""
    stage = Stage(redis_url)
    good, late = stage.worker("good"), "0123456789ab"
    registrations = Registrations(stage.client, stage.keys)
    assert registrations.learn([good.epoch, late]).unreadable == [late]
    stage.text.delete(stage.keys.worker(good.epoch))
    stage.text.hset(stage.keys.worker(late), "registration", '{"name": "late@h", "host": "h", "pid": 1, "concurrency": 1}')
    learned = registrations.learn([late, good.epoch])
    assert (list(learned.new), learned.unreadable, list(registrations.known)) == ([late], [], [late, good.epoch])
    assert registrations.learn([good.epoch]).new == {}
    assert list(registrations.known) == [good.epoch]
    stage.text.set(stage.keys.worker("c"), "of another type")
    assert registrations.learn(["c"]).unreadable == ["c"]
    stage.close()
