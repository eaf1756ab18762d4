"""What an operator does to a cell, against a real Redis and the real dispatcher, stepped by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.cli.session import Session
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import Invalid, JobDead, Unavailable
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import new_epoch
from dispatcher.wiring import build_dispatcher
from tests.life import Life

KEYS = Keys()
FACTS = {"done": 7, "failed": 1, "running": 0, "busy_ms": 0, "consume_age_ms": 0, "loop_lag_ms": 0}


class Cell:
    """A cell without threads: the test steps the dispatcher and plays the workers."""

    def __init__(self, url: str) -> None:
        self.app = Celery("producer", broker=celery_url(url), backend=celery_url(url), set_as_current=False)
        self.client = connect(url)
        self.admin = AdminStore(self.client, KEYS, ("dispatch",))
        self.process = build_dispatcher(Settings(redis_url=url), self.app)

    def send(self, count: int, task: str = "t", **options: object) -> list[str]:
        return [self.app.send_task(task, args=[n], queue="dispatch", **options).id for n in range(count)]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.process.dispatcher.step()

    def worker(self, name: str = "w1@here", *, beat: bool = True, **facts: object) -> Life:
        worker = Life(self.client, KEYS, new_epoch())
        assert worker.register(Registration(name, "here", 42, 2, tasks=("t",), **facts))
        if beat:
            worker.heartbeat(FACTS)
        return worker


def _body(message: dict) -> str:
    return base64.b64decode(message["body"]).decode()


@pytest.fixture
def cell(redis_url: str) -> Iterator[Cell]:
    one = Cell(redis_url)
    yield one
    one.process.dispatcher.resign()
    one.app.close()
    one.client.close()


def test_status_of_an_empty_cell(cell: Cell) -> None:
    """Every field is there when nothing is."""
    counts = {"leader": None, "ingress": 0, "scheduled": 0, "dead": 0, "unsettled": 0, "unroutable": 0}
    assert cell.admin.status() == counts | {"unreadable": [], "lanes": [], "workers": []}


def test_status_counts_each_job_where_it_is(cell: Cell) -> None:
    """A job is in the ingress, in a lane, leased or running; scheduled and dead ones are counted too."""
    cell.worker("busy@here", models=("m",), labels={"region": "eu"})
    cell.send(10)
    assert cell.admin.status()["ingress"] == 10
    cell.send(1, countdown=60)
    cell.client.lpush("dispatch", "this is no job")
    cell.step(2)
    status = cell.admin.status()
    (worker,) = status["workers"]
    (lane,) = status["lanes"]
    assert status["leader"].keys() == {"host", "pid"}
    assert (status["ingress"], status["scheduled"], status["dead"]) == (0, 1, 1)
    assert set(lane) == {"lane", "depth", "oldest_s", "why"}
    assert lane["lane"].startswith("dispatch/t/default/p0/")
    assert worker["leased"] + lane["depth"] == 10
    assert 0 < worker["leased"] < 10
    assert worker["running"] == 0
    assert {key: worker[key] for key in ("name", "state", "weight", "concurrency", "done", "failed", "pid", "models", "labels")} == {
        "name": "busy@here", "state": "ready", "weight": 1.0, "concurrency": 2, "done": 7, "failed": 1, "pid": 42, "models": ["m"],
        "labels": {"region": "eu"},
    }  # fmt: skip
    assert set(worker) == {
        "name", "epoch", "state", "weight", "concurrency", "leased", "running", "done", "failed", "beat_age_s", "pid", "models", "labels",
        "window", "speeds", "warmth", "ejected", "models_max", "resident", "threads", "refused",
    }  # fmt: skip
    assert 0 <= worker["beat_age_s"] < 60


def test_states_of_a_worker_life(cell: Cell) -> None:
    """starting, ready, draining, ready again, left; and that is still shown when all is settled."""
    worker = cell.worker(beat=False)

    def state() -> str:
        return cell.admin.status()["workers"][0]["state"]

    assert state() == "starting"
    worker.heartbeat(FACTS)
    assert state() == "ready"
    assert cell.admin.drain("w1", keep=True) == "w1@here"
    assert state() == "draining"
    assert cell.admin.undrain("w1@here") == "w1@here"
    assert state() == "ready"
    assert cell.admin.drain("w1") == "w1@here"
    with pytest.raises(Invalid, match="w1@here is about to exit"):
        cell.admin.undrain("w1")
    assert state() == "draining"
    worker.goodbye()
    assert state() == "left"
    cell.step(2)
    assert cell.client.smembers(KEYS.workers) == set()
    assert state() == "left"


def test_a_name_is_shown_once(cell: Cell) -> None:
    """Of lives that have ended the last one, which is *dead* where it did not say goodbye, until its name is back; two workers
    that live under one name are both shown.
    """

    def states() -> list[str]:
        return [worker["state"] for worker in cell.admin.status()["workers"]]

    for ends in ("goodbye", "silent", "goodbye", "silent"):
        worker = cell.worker()
        assert states() == ["ready"]
        if ends == "goodbye":
            worker.goodbye()
        else:
            cell.client.set(KEYS.dead(worker.epoch), "silent")
            cell.client.delete(KEYS.alive(worker.epoch))
        wanted = ["left" if ends == "goodbye" else "dead"]
        assert states() == wanted
        cell.step(2)
        assert states() == wanted
    cell.worker()
    cell.worker()
    assert states() == ["ready", "ready"]


def test_drain_gets_untaken_jobs_back(cell: Cell) -> None:
    """What the worker had not started goes to its lane; what it had started stays."""
    worker = cell.worker()
    cell.send(3)
    cell.step()
    first = worker.heartbeat(FACTS).queued
    assert worker.take(min(first)) is not None
    cell.admin.drain("w1")
    cell.step(2)
    (shown,) = cell.admin.status()["workers"]
    assert (shown["leased"], shown["running"]) == (1, 1)


def test_drain_says_who_there_is(cell: Cell) -> None:
    """A wrong name is answered with the right ones, an ambiguous one with the candidates."""
    cell.worker("a@one")
    cell.worker("a@two")
    with pytest.raises(Invalid, match=r"no worker 'b' lives: there are a@one, a@two"):
        cell.admin.drain("b")
    with pytest.raises(Invalid, match=r"'a' may be a@one or a@two"):
        cell.admin.drain("a")


def test_a_paused_queue_keeps_its_jobs_as_celery_messages(cell: Cell) -> None:
    """Nothing is admitted or assigned while paused; everything afterwards."""
    worker = cell.worker()
    cell.admin.pause("dispatch")
    cell.send(2)
    cell.step(3)
    assert cell.admin.status()["ingress"] == 2
    assert worker.heartbeat(FACTS).leases == frozenset()
    with pytest.raises(Invalid, match="no ingress queue 'nope'"):
        cell.admin.pause("nope")
    cell.admin.resume("dispatch")
    cell.step(2)
    assert len(worker.heartbeat(FACTS).leases) == 2


def test_resume_by_name_where_all_are_paused(cell: Cell) -> None:
    """It would change nothing, so it says what would."""
    cell.admin.pause()
    with pytest.raises(Invalid, match="resume without a name"):
        cell.admin.resume("dispatch")
    cell.admin.resume()
    with pytest.raises(Invalid, match="'dispatch' is not paused"):
        cell.admin.resume("dispatch")


def test_release_returns_every_unstarted_job_in_order(cell: Cell) -> None:
    """From lanes, leases and `scheduled`, to the ingress list of its priority, oldest first; the started one stays; all is paused."""
    cell.step()
    worker = cell.worker()
    cell.send(12)
    cell.send(1, priority=9)
    cell.send(1, eta=datetime.now(UTC) + timedelta(hours=1))
    cell.step(2)
    queued = worker.heartbeat(FACTS).queued
    started = worker.take(min(queued))
    assert started is not None
    released = cell.admin.emptying().release()
    assert (released.jobs, released.running) == (13, 1)
    assert released.recalled == len(queued) - 1
    status = cell.admin.status()
    assert (status["lanes"], status["scheduled"], status["ingress"]) == ([], 0, 13)
    plain = [key for key in KEYS.ingress("dispatch") if cell.client.exists(key)]
    assert len(plain) == 2
    numbers = [json.loads(_body(json.loads(text)))[0][0] for text in reversed(cell.client.lrange("dispatch", 0, -1))]
    assert [n for n in numbers if n] == list(range(1, 12))
    assert cell.client.hlen(KEYS.messages) == 1
    cell.step(2)
    assert cell.admin.status()["ingress"] == 13
    assert cell.admin.paused() == {"*"}


def test_release_from_a_worker_that_is_dead_already(cell: Cell) -> None:
    """No dispatcher is needed to get its jobs back."""
    worker = cell.worker()
    cell.send(2)
    cell.step()
    worker.goodbye()
    cell.process.dispatcher.resign()
    assert cell.admin.emptying().release().jobs == 2


def test_released_messages_are_the_very_messages(cell: Cell) -> None:
    """Not a byte is changed between a producer's send and a stock worker's receipt."""
    cell.send(1, headers={"dispatch": {"cost": 3}})
    (before,) = cell.client.lrange("dispatch", 0, -1)
    cell.step()
    assert cell.admin.emptying().release().jobs == 1
    assert cell.client.lrange("dispatch", 0, -1) == [before]


def test_purge_forgets_what_waits_and_nothing_else(cell: Cell) -> None:
    """Ingress, lanes and `scheduled` are emptied, leases and dead letters are not."""
    worker = cell.worker()
    cell.send(20)
    cell.send(1, countdown=60)
    cell.client.lpush("dispatch", "no job")
    cell.step(3)
    leased = len(worker.heartbeat(FACTS).leases)
    cell.send(5)
    assert cell.admin.emptying().purge() == 26 - leased
    status = cell.admin.status()
    assert (status["ingress"], status["lanes"], status["scheduled"], status["dead"]) == (0, [], 0, 1)
    assert cell.client.hlen(KEYS.messages) == leased + 1


def test_whoever_waits_for_a_purged_job_is_told(cell: Cell, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ingress, lane and `scheduled` alike: ``get()`` raises, each job once, and messages that say no id are no obstacle."""
    ids = [*cell.send(250), *cell.send(1, countdown=60)]
    cell.client.lpush("dispatch", "no job")
    cell.step(3)
    ids += cell.send(2)
    cell.client.lpush("dispatch", "no job either")
    monkeypatch.setenv("DISPATCHER_REDIS_URL", redis_url)
    result = CliRunner().invoke(cli, ["purge", "--force", "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"purged": 254})
    for task_id in ids:
        with pytest.raises(JobDead, match="purged"):
            cell.app.AsyncResult(task_id).get(timeout=5)


def test_dead_letters_are_listed_with_their_reasons(cell: Cell) -> None:
    """The newest first: what was refused, and what was given up after it had been admitted."""
    worker = cell.worker()
    cell.client.lpush("dispatch", "no job")
    (task_id,) = cell.send(1)
    cell.step(2)
    (lease,) = worker.heartbeat(FACTS).leases
    assert worker.take(lease) is not None
    worker.giveback([GiveBack(lease, "crashes", -1, "crashed", "it killed its worker")])
    given_up, refused = cell.admin.dead_letters().list()
    assert (given_up.reason, given_up.detail, given_up.task, given_up.task_id) == ("crashed", "it killed its worker", "t", task_id)
    assert given_up.ingress == refused.ingress == "dispatch"
    assert refused.reason
    assert refused.task_id is None
    assert [letter.job for letter in cell.admin.dead_letters().list(1)] == [given_up.job]


def test_a_dead_letter_can_be_sent_back_or_forgotten(cell: Cell) -> None:
    """Requeued: it is in its queue as it was; purged: nothing of it is left. Unknown ones are not counted."""
    cell.client.lpush("dispatch", "first", "second")
    cell.step()
    newer, older = cell.admin.dead_letters().list()
    assert cell.admin.dead_letters().requeue([older.job, "1"]) == 1
    assert cell.client.lrange("dispatch", 0, -1) == ["first"]
    assert cell.admin.dead_letters().purge() == 1
    assert cell.admin.dead_letters().list() == []
    assert cell.client.hlen(KEYS.messages) == cell.client.hlen(KEYS.dead_reasons) == cell.client.scard(KEYS.unsettled) == 0
    assert newer.job != older.job


def test_a_prefixed_cell(redis_url: str) -> None:
    """The app's ``global_keyprefix`` and the cell's name are part of every key."""
    keys = Keys("blue", "team:")
    with connect(redis_url) as client:
        client.lpush("team:dispatch", "x")
        admin = AdminStore(client, keys, ("dispatch",))
        assert admin.status()["ingress"] == 1
        admin.pause()
        assert client.smembers("team:blue:paused") == {"*"}
        assert admin.emptying().purge() == 1


def test_a_redis_that_is_away_is_said_in_a_sentence() -> None:
    """With its address and what to do."""
    session = Session({"DISPATCHER_REDIS_URL": "unix:///nowhere/at/all.sock"})
    with pytest.raises(Unavailable, match=r"/nowhere/at/all.sock.*does not answer.*start it"), session.admin():
        pass


def test_the_store_needs_no_keys_of_its_own(cell: Cell) -> None:
    """Looking writes nothing."""
    cell.admin.status()
    cell.admin.dead_letters().list()
    cell.admin.paused()
    assert cell.client.keys("*") == []
