"""What plain Celery accepts, attached workers accept: ids, headers, protocols, compressions and tasks that people bring."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, chord
from celery.canvas import Signature
from celery.exceptions import ChordError, TaskRevokedError

from dispatcher.errors import JobDead
from tests.eventually import eventually
from tests.own_compression import register_compression
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster

APP = "tests.process.accepting_app"


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """One dispatcher of the app; workers come as the test says."""
    made = make_cluster(app=APP)
    made.environ["C_FORCE_ROOT"] = "1"  # who accepts pickle is asked for it
    made.start_dispatcher()
    return made


def test_ids_headers_and_compressions_that_kombu_carries(cluster: Cluster) -> None:
    """A UUID as id, values with a type in the header `dispatch`, a compression that the app registered with kombu."""
    register_compression()
    cluster.start_worker("w1", pool="threads")
    said = {"session": uuid4(), "tenant": b"acme", "cost": Decimal("0.5"), "deadline_s": Decimal(60)}

    named = cluster.producer.send_task("who", task_id=uuid4(), headers={"dispatch": said, "mine": datetime(2020, 1, 1, tzinfo=UTC)})
    packed = cluster.producer.send_task("length", ["x" * 9000], compression="own")
    later = cluster.producer.send_task("who", task_id=uuid4(), eta=datetime.now(UTC) + timedelta(seconds=1))

    assert isinstance(named.id, UUID)
    assert named.get(timeout=PATIENCE_S)[0] == str(named.id)
    assert packed.get(timeout=PATIENCE_S) == 9000
    assert later.get(timeout=PATIENCE_S)[0] == str(later.id)
    cluster.nothing_is_left()


def test_a_revoke_reaches_a_job_whose_id_is_a_uuid(cluster: Cluster) -> None:
    """By the UUID and by its text: before its worker is there. It is found by its text."""
    first, second = (cluster.producer.send_task("who", task_id=uuid4()) for _ in range(2))
    eventually(lambda: "waits" in cluster.command("explain", str(first.id)), PATIENCE_S)
    cluster.producer.control.revoke(first.id)
    cluster.producer.control.revoke(str(second.id))
    eventually(lambda: cluster.client.zcard(cluster.keys.revoked) == 2, PATIENCE_S)
    cluster.start_worker("w1", pool="solo")
    for job in (first, second):
        with pytest.raises(TaskRevokedError):
            job.get(timeout=PATIENCE_S)
    cluster.nothing_is_left()


def test_a_task_that_is_registered_once_the_worker_runs_runs_there(cluster: Cluster) -> None:
    """Whoever registers it calls ``update_strategies``, as Celery's own ``worker.reload()`` and ``pool_restart`` do."""
    waits = cluster.producer.send_task("late")
    cluster.start_worker("w1", pool="solo")
    cluster.environ["PROMISE_LATE"] = "1"
    cluster.start_worker("w2", pool="solo")
    assert waits.get(timeout=PATIENCE_S) == "ran"
    cluster.nothing_is_left()


def test_a_module_that_is_loaded_into_a_running_worker_brings_its_tasks(cluster: Cluster) -> None:
    """Remote control's ``pool_restart`` with modules. (A process of a pool runs one more job before it is a new one.)"""
    cluster.environ["PYTHONPATH"] = f"{cluster.folder}:{cluster.environ.get('PYTHONPATH', '')}"
    source = "from tests.process.app import app\n@app.task(name='brought')\ndef brought(): return 'ran'\n"
    (cluster.folder / "brought.py").write_text(source)
    cluster.start_worker("w1", pool="threads")
    waits = cluster.producer.send_task("brought")
    cluster.producer.control.pool_restart(modules=["brought"], destination=["w1@promise"], reply=True, timeout=30)
    assert waits.get(timeout=PATIENCE_S) == "ran"
    cluster.nothing_is_left()


def test_task_protocol_1(cluster: Cluster) -> None:
    """A setting of Celery, and what old and foreign producers speak: with id, header, eta, retries, canvas, dead letters."""
    cluster.environ["PROMISE_PROTOCOL"] = "1"
    cluster.start_worker("w1", pool="threads")
    app = Celery("old", broker=cluster.broker.celery_url(), backend=cluster.broker.celery_url(1), set_as_current=False)
    app.conf.update(task_default_queue="dispatch", task_protocol=1)

    plain = app.send_task("who", headers={"mine": "of mine", "dispatch": {"cost": 0.2}})
    later = app.send_task("who", eta=datetime.now(UTC) + timedelta(seconds=1))
    again = app.send_task("twice more")
    counted = chord([Signature("add", args=(n, 1), app=app) for n in range(3)], Signature("total", app=app)).apply_async()
    assert plain.get(timeout=PATIENCE_S) == [plain.id, 0, "of mine"]
    assert later.get(timeout=PATIENCE_S)[0] == later.id
    assert again.get(timeout=PATIENCE_S) == 2
    assert counted.get(timeout=PATIENCE_S) == 6
    expired = app.send_task("who", expires=datetime.now(UTC) - timedelta(seconds=60))
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=PATIENCE_S)
    cluster.nothing_is_left()
    wrong = app.send_task("who", headers={"dispatch": {"cost": -1}})
    with pytest.raises(JobDead, match="cost"):
        wrong.get(timeout=PATIENCE_S)


@pytest.fixture
def newer(cluster: Cluster) -> Iterator[Path]:
    """A folder with newer code, which this process has loaded: it sends jobs with objects of a class of it."""
    folder = cluster.folder / "newer"
    folder.mkdir()
    source = "class Document: pass\n"
    (folder / "newer_code.py").write_text(source)
    module = types.ModuleType("newer_code")
    exec(source, module.__dict__)
    sys.modules["newer_code"] = module
    yield folder
    del sys.modules["newer_code"]


def of_newer_code() -> Any:
    return sys.modules["newer_code"].Document()


def test_a_job_that_one_worker_cannot_read_is_run_by_another(cluster: Cluster, newer: Path) -> None:
    """A rolling deploy: the idle old worker gets it first, and the new one runs it, each once."""
    cluster.start_worker("old", pool="solo")
    cluster.environ["PROMISE_NEWER"] = str(newer)
    cluster.start_worker("new", pool="solo")

    jobs = cluster.send("length", of_newer_code(), count=8, serializer="pickle")

    cluster.all_succeed(jobs)
    cluster.nothing_is_left()
    assert {entry.worker for entry in cluster.ledger.starts()} == {"new@promise"}
    assert set(cluster.ledger.runs().values()) == {1}
    assert "another worker may" in (cluster.folder / "old.log").read_text()


@pytest.mark.parametrize("why", ["lacks the class", "accepts less"])
def test_a_job_that_no_worker_can_read_is_a_dead_letter(cluster: Cluster, newer: Path, why: str) -> None:
    """Nothing is lost: its sender is told the reason, and the chord that it is part of ends."""
    if why == "accepts less":
        cluster.environ |= {"PROMISE_NEWER": str(newer), "PROMISE_ACCEPTS": "json"}
    cluster.start_workers("w1", "w2", pool="threads")
    app = cluster.producer
    app.conf.task_serializer = "pickle"

    (job,) = cluster.send("length", of_newer_code())
    parts = [Signature("length", args=(of_newer_code(),), app=app), Signature("add", args=(1, 1), app=app)]
    counted = chord(parts, Signature("total", app=app)).apply_async()

    with pytest.raises(JobDead) as raised:
        cluster.result(job).get(timeout=PATIENCE_S)
    assert raised.value.reason == "unreadable"
    assert ("newer_code" if why == "lacks the class" else "pickle") in raised.value.detail
    with pytest.raises(ChordError):
        cluster.result(counted.id).get(timeout=PATIENCE_S)
    dead = eventually(lambda: len(letters := cluster.dead_letters()) >= 2 and letters, PATIENCE_S)
    assert {len(letter["story"]) for letter in dead} == {2}, "each worker tried, and none twice"
    assert pickle.loads(pickle.dumps(raised.value)).reason == "unreadable"
