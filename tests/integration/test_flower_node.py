"""The dispatcher's node, asked over a real Redis as Flower and ``celery inspect`` ask it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery
from celery.events import EventReceiver
from kombu import Queue
from kombu.exceptions import OperationalError
from redis import RedisError

from dispatcher.clock import SystemClock
from dispatcher.events import LeadGained, LeadLost, WorkerReaped
from dispatcher.observe.cell_reader import CellReader
from dispatcher.observe.node import FlowerNode, LiveWorker
from dispatcher.observe.refresh import FlowerRefresh
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import WorkerStore
from tests.conftest import MakeRedis
from tests.eventually import eventually

NAME = "dispatcher@test"


def _app(url: str) -> Celery:
    made = Celery("flower-node-test", broker=celery_url(url), set_as_current=False)
    made.conf.update(result_backend=celery_url(url), accept_content=["json"])
    return made


@contextmanager
def _node(app: Celery, queues: Callable[[], list[str]] = list, **options: Any) -> Iterator[FlowerNode]:
    node = FlowerNode(app, NAME, queues, **options)
    node.start()
    try:
        # A new app each time: a question that nobody heard leaves its connection waiting for a second.
        eventually(lambda: _ask(_app(app.conf.broker_url), "ping", 0.2) == {NAME: {"ok": "pong"}}, 20)
        yield node
    finally:
        node.stop()


def _ask(app: Celery, method: str, timeout_s: float = 3.0) -> Any:
    """As ``celery inspect``, but done with the first answer."""
    try:
        return app.control.inspect([NAME], timeout=timeout_s, limit=1)._request(method)
    except (OSError, OperationalError, RedisError):  # Redis may be away, as some tests want it
        return None


@pytest.fixture
def app(redis_url: str) -> Celery:
    return _app(redis_url)


def test_active_queues_are_whole_queue_descriptions(app: Celery) -> None:
    """Each queue is told with every field that kombu gives it, as a worker would."""
    with _node(app, lambda: ["dispatch", "dispatch:lane:a/b"]):
        told = _ask(app, "active_queues")[NAME]

    assert [queue["name"] for queue in told] == ["dispatch", "dispatch:lane:a/b"]
    assert told[0].keys() == Queue("x").as_dict(recurse=True).keys()
    assert told[0]["exchange"]["name"] == ""


def test_every_question_of_flower_is_answered(app: Celery) -> None:
    """No answer is an error, and each has the type that Flower's pages expect."""
    lists = dict.fromkeys(("registered", "active", "reserved", "scheduled", "revoked"), list)
    expected = {**lists, **dict.fromkeys(("stats", "conf", "report"), dict)}
    with _node(app):
        answers = {method: _ask(app, method)[NAME] for method in expected}

    assert {method: type(answer) for method, answer in answers.items()} == expected
    assert not [method for method, answer in answers.items() if "error" in answer]


def test_who_counts_workers_does_not_count_the_node(app: Celery) -> None:
    """A question to all nodes that is answered by who is there (``ping``, ``stats``, ``active``, …) gets no answer; the one for the
    queues, by which Flower knows where jobs wait, does.
    """
    with _node(app):
        inspect = app.control.inspect(timeout=1.0)
        for method in ("ping", "stats", "registered", "active", "conf"):
            assert inspect._request(method) is None, method
        assert set(inspect.active_queues()) == {NAME}


def test_jobs_that_wait_for_their_eta_are_listed(redis_url: str) -> None:
    """``inspect scheduled`` names their ids, tasks and times, the next one first; what is no job is left out, and a message that
    cannot be read hides no job.
    """
    app, client, keys = _app(redis_url), connect(redis_url), Keys()
    for job, due_ms in (("1000000000000001", 2_000_000_000_000), ("1000000000000002", 1_900_000_000_000)):
        client.zadd(keys.scheduled, {f"{job}{1:013d}{1000:09d}00000000{0:013d}gpu/t.add/default/p3/c10": due_ms})
    client.zadd(keys.scheduled, {"no job": 1})
    client.hset(keys.messages, "1000000000000001", '{"headers": {"id": "j1", "argsrepr": "(1, 2)"}, "properties": {}, "body": ""}')
    client.hset(keys.messages, "1000000000000002", "{")
    with _node(app, scheduled=CellReader(client, keys).scheduled):
        jobs = _ask(app, "scheduled")[NAME]

    assert [(job["eta"], job["priority"], job["request"]["id"], job["request"]["args"]) for job in jobs] == [
        ("2030-03-17T17:46:40+00:00", 3, None, None),
        ("2033-05-18T03:33:20+00:00", 3, "j1", "(1, 2)"),
    ]
    assert {job["request"]["name"] for job in jobs} == {"t.add"}


def test_passwords_stay_here(redis_url: str) -> None:
    """``conf``, ``stats`` and ``report`` tell no password of a broker or a backend."""
    app = _app(redis_url)
    app.conf.update(result_backend="redis://:sesame@backend.example:6379/0", redis_password="sesame")
    with _node(app):
        told = [_ask(app, method) for method in ("conf", "stats", "report")]

    assert all(told)
    assert "sesame" not in repr(told)


def test_commands_for_workers_change_nothing(app: Celery) -> None:
    """``shutdown`` and friends are ignored; where one names this node and wants an answer, it is refused politely."""
    with _node(app):
        app.control.shutdown(destination=[NAME])
        app.control.broadcast("shutdown")
        app.control.broadcast("no_such_command")
        refusals = app.control.pool_grow(1, destination=[NAME], reply=True, timeout=5)

        assert "runs none" in refusals[0][NAME]["error"]
        assert _ask(app, "ping") == {NAME: {"ok": "pong"}}


def test_a_failing_look_is_told_to_the_asker_and_breaks_nothing(app: Celery) -> None:
    """Whoever asks for the queues while they cannot be read gets an error; the node goes on."""

    def broken() -> list[str]:
        raise ConnectionError("Redis is away")

    with _node(app, broken):
        assert "error" in _ask(app, "active_queues")[NAME]
        assert _ask(app, "ping") == {NAME: {"ok": "pong"}}


def test_outages_of_redis_are_survived(make_redis: MakeRedis) -> None:
    """After Redis was killed and started again, and after it hung, the node answers again."""
    server = make_redis()
    app = _app(server.url())
    with _node(app):
        server.kill()
        server.start()
        eventually(lambda: _ask(_app(server.url()), "ping", 0.5) == {NAME: {"ok": "pong"}}, 20)


def test_stop_does_not_wait_for_a_redis_that_hangs(make_redis: MakeRedis) -> None:
    """``stop`` returns while Redis is frozen."""
    server = make_redis()
    with _node(_app(server.url())) as node:
        server.freeze()
        stopper = threading.Thread(target=node.stop)
        stopper.start()
        stopper.join(20)
        server.thaw()
        assert not stopper.is_alive()


class Listener:
    """Collects worker events as Flower does."""

    def __init__(self, app: Celery) -> None:
        self.seen: list[tuple[str, str]] = []
        self._app = app
        self._receiver: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = EventReceiver(connection, {"*": self._note}, app=self._app)
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _note(self, event: dict[str, Any]) -> None:
        self.seen.append((event["hostname"], event["type"]))

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)


def test_the_node_is_online_beats_and_goes_offline(app: Celery) -> None:
    """Who listens hears worker-online first, heartbeats after it, and worker-offline at the end."""
    with Listener(app) as listener:
        eventually(lambda: listener._receiver is not None)
        with _node(app):
            eventually(lambda: (NAME, "worker-heartbeat") in listener.seen)
        eventually(lambda: (NAME, "worker-offline") in listener.seen)

    kinds = [kind for name, kind in listener.seen if name == NAME]
    assert kinds.index("worker-heartbeat") < kinds.index("worker-offline") == len(kinds) - 1


def test_a_reaped_worker_goes_offline_unless_its_name_lives_on(app: Celery) -> None:
    """WorkerReaped makes worker-offline in the dead worker's name, but not where another life has that name already."""
    with Listener(app) as listener:
        with _node(app, live_workers=lambda: [LiveWorker("again@host", 1)]) as node:
            eventually(lambda: listener.seen)
            for name in ("again@host", "gone@host"):
                node.on_event(WorkerReaped(name, "0123456789ab", "silent", 0, 0))
            eventually(lambda: ("gone@host", "worker-offline") in listener.seen)

    assert not [kind for name, kind in listener.seen if name == "again@host"]


def test_the_node_stands_in_for_a_solo_worker_that_runs_a_job(app: Celery) -> None:
    """A solo pool sends no events while a job runs: its heartbeats come from the node, and only while it runs one."""
    workers = [LiveWorker("busy@host", 1, running=1), LiveWorker("idle@host", 2)]
    with Listener(app) as listener, _node(app, live_workers=lambda: workers):
        eventually(lambda: ("busy@host", "worker-heartbeat") in listener.seen)

    assert not [kind for name, kind in listener.seen if name == "idle@host"]


def test_a_cell_names_its_ingress_lanes_and_worker_queues(redis_url: str) -> None:
    """The names are kombu's, without ``global_keyprefix``; a lane that has emptied is named for a while longer."""
    client = connect(redis_url)
    keys = Keys(prefix="acme:")
    WorkerStore(client, keys, "0123456789ab").register(Registration("w1@host", "host", 7, 2, pool="solo", ingress=("gpu",)))
    client.sadd(keys.lanes, "gpu/t/default/p0/c1")
    cell = CellReader(client, keys, ["dispatch"])
    expected = ["dispatch", "gpu", "dispatch:lane:gpu/t/default/p0/c1", "dispatch:wq:0123456789ab"]

    assert cell.queues() == expected
    client.delete(keys.lanes)
    assert cell.queues() == expected
    assert cell.live_workers() == [LiveWorker("w1@host", 7)]
    client.hset(keys.worker("0123456789ab"), mapping={"running": 1, "done": 5})
    assert cell.live_workers() == [LiveWorker("w1@host", 7, running=1, done=5)]
    client.pexpire(keys.alive("0123456789ab"), 1000)  # it has long been silent
    assert cell.live_workers() == [LiveWorker("w1@host", 7, running=0, done=5)]


class _FakeFlower(BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_flower_is_asked_to_look_again_when_a_queue_appears() -> None:
    """One request for what is there at first, one more for a new queue, with the login that the URL holds."""
    handler = type("Handler", (_FakeFlower,), {"seen": []})
    names = ["dispatch"]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refresh = FlowerRefresh(f"http://me:pass@127.0.0.1:{server.server_port}/flower/", lambda: names, SystemClock())
        refresh.start()
        try:
            eventually(lambda: len(handler.seen) == 1)
            names.append("dispatch:lane:x")
            eventually(lambda: len(handler.seen) == 2)
        finally:
            refresh.stop()
            server.shutdown()

    path, login = handler.seen[0]
    assert path.startswith("/flower/workers?refresh=1")
    assert login == "Basic bWU6cGFzcw=="


def test_a_flower_that_is_away_harms_nobody() -> None:
    """Where nothing listens, ``ask`` and ``stop`` return and no exception escapes the thread."""
    refresh = FlowerRefresh("http://127.0.0.1:9", lambda: ["dispatch"], SystemClock())
    refresh.start()
    refresh.ask()
    assert not refresh._request()
    refresh.stop()


def test_the_node_of_a_standby_listens_and_says_nothing(app: Celery) -> None:
    """Its answers would be those of a second leader. When its dispatcher gains the lead it is there; when it loses it, it is gone: the
    name goes offline, unless another dispatcher of the name has it now.
    """
    followed: list[bool] = []
    with Listener(app) as listener:
        eventually(lambda: listener._receiver is not None)
        with _node(app, succeeded=lambda: bool(followed)) as node:
            eventually(lambda: (NAME, "worker-heartbeat") in listener.seen)
            node.on_event(LeadLost("leader-1"))
            eventually(lambda: listener.seen[-1:] == [(NAME, "worker-offline")])
            assert _ask(_app(app.conf.broker_url), "ping", 0.5) is None
            assert listener.seen[-1] == (NAME, "worker-offline")

            node.on_event(LeadGained("leader-1"))
            eventually(lambda: _ask(_app(app.conf.broker_url), "ping", 0.5) == {NAME: {"ok": "pong"}}, 20)
            followed.append(True)
        eventually(lambda: (NAME, "worker-online") in listener.seen)
        assert [kind for _, kind in listener.seen].count("worker-offline") == 1
