"""The users of ``deploy/redis/users.conf``: each does all the work of its role, and can do nothing else."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.canvas import Signature
from redis.exceptions import NoPermissionError

from dispatcher.observe.flower import command as command_of_flower
from dispatcher.observe.flower import environment
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, ROOT, Cluster, Process
from tests.process.test_celery_meaning import CANVAS, ENDS
from tests.proxy import Proxy
from tests.redis_server import RedisServer

USERS = ROOT / "deploy" / "redis" / "users.conf"
NAMES_ITSELF = re.compile(r"client(\|setinfo)?")
"""redis-py says its name and version when it connects, and does not mind a refusal."""

TABS = ("workers?json=1", "broker")


def login(role: str) -> tuple[str, str]:
    return role, f"change-me-{role}"


@pytest.fixture(scope="module")
def cluster(redis_executable: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A dispatcher and two workers, each as its user, on a Redis with the file as it is."""
    folders = [Path(tempfile.mkdtemp(prefix="dispatcher-redis-", dir="/tmp")) for _ in range(2)]
    broker = RedisServer(redis_executable, folders[0], "--include", str(USERS), login=login("admin"))
    ledger = RedisServer(redis_executable, folders[1])
    made = Cluster(broker, ledger, tmp_path_factory.mktemp("users"), app="tests.process.meaning_app")
    try:
        made.start_dispatcher(via=broker.as_user(*login("dispatcher")))
        made.start_workers("w1", "w2", concurrency=3, via=broker.as_user(*login("worker")))
        yield made
    finally:
        print(*refusals(made), sep="\n")
        made.end()
        for server, folder in zip((broker, ledger), folders, strict=True):
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)


def app_of(cluster: Cluster, role: str, results: str) -> Celery:
    """A Celery app that knows nothing of a dispatcher, with the logins of two roles."""
    broker, backend = (cluster.broker.as_user(*login(one)) for one in (role, results))
    app = Celery(role, broker=broker.celery_url(), backend=backend.celery_url(1), set_as_current=False)
    app.conf.update(task_default_queue="dispatch", result_backend_thread_safe=True)
    return app


def shown_by_flower(cluster: Cluster, names: set[str]) -> None:
    """Start the real Flower as the operator, and wait until its Workers and Broker tabs name all of these.

    Over TCP: on a unix socket Flower's Broker tab leaves the user out of its login.
    """
    pytest.importorskip("flower")
    proxy = Proxy(cluster.broker.socket)
    url = "redis://{}:{}@127.0.0.1:{}/0".format(*login("operator"), proxy.port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = cluster.environ | environment(url) | {"FLOWER_UNAUTHENTICATED_API": "true"}
    flower = Process("flower", command_of_flower(url, port), environ, cluster.folder / "flower.log")
    cluster.processes.append(flower)

    def shown() -> bool:
        try:
            pages = [urllib.request.urlopen(f"http://127.0.0.1:{port}/{tab}", timeout=10).read().decode() for tab in TABS]
        except OSError as exc:
            raise AssertionError(f"Flower does not answer: {exc}") from exc
        return all(name in "".join(pages) for name in names)

    eventually(shown, PATIENCE_S, flower.tail)
    flower.end()
    proxy.close()


def refusals(cluster: Cluster) -> list[str]:
    """Who was refused what, since the server began."""
    return [
        f"{one['username']}: {one['reason']} {one['object']} ({one['context']})"
        for one in cluster.client.acl_log(100)
        if not NAMES_ITSELF.fullmatch(one["object"])
    ]


def test_each_role_does_its_work(cluster: Cluster) -> None:
    """All calls of Celery, every command of an operator, a worker that leaves and one that dies: nothing they need is refused."""
    producer, operator = app_of(cluster, "producer", "results"), app_of(cluster, "operator", "results")

    def sig(name: str, *args: Any, **options: Any) -> Signature:
        return Signature(name, args=args, options=options, app=producer)

    calls = {call: make(sig).apply_async() for call, (make, _) in CANVAS.items()}
    assert {call: result.get(timeout=PATIENCE_S) for call, result in calls.items()} == {call: end for call, (_, end) in CANVAS.items()}
    for make, *_ in ENDS.values():
        with pytest.raises(Exception, match=r"."):
            make(sig).apply_async().get(timeout=PATIENCE_S)
    forgotten = sig("add", 1, 1).apply_async(link=sig("told"))
    assert forgotten.get(timeout=PATIENCE_S) == 2
    forgotten.forget()
    with cluster.broker.as_user(*login("producer")).client() as client:
        client.lpush("dispatch", "no message")

    def command(*arguments: str) -> Any:
        return cluster.command(*arguments, via=cluster.broker.as_user(*login("operator")))

    assert {worker["state"] for worker in json.loads(command("status", "--json"))["workers"]} == {"ready"}
    naps = [producer.send_task("nap", (600,)).id for _ in range(8)]
    assert json.loads(command("explain", naps[0], "--json"))
    command("check")
    command("revoke", naps[0])
    operator.control.revoke(naps, terminate=True)
    eventually(lambda: cluster.states(naps) == {"REVOKED": len(naps)}, PATIENCE_S)
    assert set(operator.control.inspect(timeout=PATIENCE_S, limit=2).ping()) == {"w1@promise", "w2@promise"}
    shown_by_flower(cluster, {"w1@promise", "w2@promise", "dispatch"})
    command("rollout", "set", "chat", "chat@1=100", "--force")
    command("rollout", "remove", "chat")
    command("pause")
    waiting = [producer.send_task("noop", countdown=late) for late in (0, 0, 600)]
    command("resume")
    waiting[0].get(timeout=PATIENCE_S)
    command("drain", "w1", "--keep")
    command("undrain", "w1")
    w1, w2 = cluster.processes[1:3]
    w1.send(signal.SIGTERM)
    assert w1.wait() == 0
    long = producer.send_task("nap", (1,))
    eventually(lambda: cluster.ledger.runs()[long.id] == 1, PATIENCE_S)
    epoch = cluster.epoch(w2)
    w2.kill()
    eventually(lambda: cluster.gone_at_ms(epoch), PATIENCE_S)
    command("dead", "list")
    command("dead", "requeue", "--all")
    command("dead", "purge", "--all")
    command("release")
    command("resume")
    command("purge", "--force")
    # `run` and `check` ask for settings that they warn of, and do without. Redis 6 names the command alone.
    asked = {one.replace("config|get", "config") for one in refusals(cluster)}
    assert asked == {"dispatcher: command config (toplevel)", "operator: command config (toplevel)"}
    for app in (producer, operator):
        # Results unsubscribe when they are collected, and retry for long where Redis has gone before.
        app.backend.result_consumer.subscribed_to.clear()
        app.close()


FORBIDDEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "producer": (
        ("LRANGE", "dispatch", "0", "-1"), ("RPOP", "dispatch"), ("DEL", "dispatch"), ("HGETALL", "dispatch:messages"),
        ("LPUSH", "dispatch:wq:0123456789ab", "x"), ("SET", "dispatch:leader", "me"), ("EVAL", "return 1", "0"), ("KEYS", "*"),
        ("PUBLISH", "/0.celery.pidbox", "{}"), ("SUBSCRIBE", "/0.celeryev/worker.heartbeat"),
    ),
    "results": (("LPUSH", "dispatch", "x"), ("GET", "theirs"), ("DEL", "dispatch"), ("SUBSCRIBE", "/0.celery.pidbox"), ("KEYS", "*")),
    "worker": (
        ("SET", "theirs", "1"), ("KEYS", "*"), ("GET", "theirs"),
    ),
    "dispatcher": (
        ("SET", "theirs", "1"), ("CONFIG", "SET", "appendonly", "no"), ("KEYS", "*"),
    ),
    "operator": (
        ("SET", "theirs", "1"), ("CONFIG", "SET", "appendonly", "no"), ("KEYS", "*"),
    ),
}  # fmt: skip
EVERYBODY = (
    ("FLUSHALL",), ("FLUSHDB",), ("SHUTDOWN", "NOSAVE"), ("ACL", "LIST"), ("CLIENT", "LIST"), ("MONITOR",), ("SAVE",),
    ("CONFIG", "GET", "requirepass"), ("CONFIG", "GET", "masterauth"), ("CONFIG", "GET", "save"),
)  # fmt: skip


@pytest.mark.parametrize("role", FORBIDDEN)
def test_no_role_can_do_more(cluster: Cluster, role: str) -> None:
    """Other keys, other people's work, and whatever ends the server."""
    with cluster.broker.as_user(*login(role)).client() as client:
        assert client.ping()
        for command in (*FORBIDDEN[role], *EVERYBODY):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


def test_nobody_comes_in_without_a_name(cluster: Cluster) -> None:
    """The default user is off."""
    with redis.Redis(unix_socket_path=str(cluster.broker.socket)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
