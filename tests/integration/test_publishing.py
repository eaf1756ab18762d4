"""What tasks send: it arrives once, though the answer of Redis is lost, and waits where Redis is away."""

from __future__ import annotations

import json
import os
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack
from kombu import Exchange, Queue

from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.worker.patches.forced import force_settings
from dispatcher.worker.patches.publishing import send_once_from_tasks
from tests.proxy import Proxy
from tests.redis_server import RedisServer


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(redis_server.socket)
    yield proxy
    proxy.close()


def make_app(url: str, **transport_options: Any) -> Celery:
    """As it is in a worker."""
    app = Celery("publishing", broker=celery_url(url), set_as_current=False)
    app.conf.update(task_default_queue="dispatch", broker_transport_options=transport_options, task_ignore_result=True)
    force_settings(app.conf)
    send_once_from_tasks(app, cell="dispatch")

    @app.task(name="sender", shared=False)
    def sender() -> None: ...

    return app


@contextmanager
def in_task(app: Celery) -> Iterator[None]:
    """What is sent in here is sent by a task."""
    _task_stack.push(app.tasks["sender"])
    try:
        yield
    finally:
        _task_stack.pop()


def numbers(url: str, key: str = "dispatch") -> list[int]:
    """First arguments of the messages there, the first sent first."""
    with connect(url, text=False) as client:
        return [json.loads(b64decode(json.loads(raw)["body"]))[0][0] for raw in reversed(client.lrange(key, 0, -1))]


def test_a_message_whose_answer_is_lost_is_there_once(proxy: Proxy, redis_url: str) -> None:
    """Redis had taken it when the connection broke: it is sent again, and refused. So is a retry, with a priority and a countdown."""
    app = make_app(proxy.url())
    with in_task(app):
        app.send_task("job", (1,))
        for number in (2, 3):
            proxy.lose_answer_to(b"(%d,)" % number)
            app.send_task("job", (number,))
        app.send_task("job", (4,))
        proxy.lose_answer_to(b"(5,)")
        app.send_task("job", (5,), priority=6, countdown=60, retries=1)

    assert proxy.lost == 3
    assert numbers(redis_url) == [1, 2, 3, 4]
    assert numbers(redis_url, "dispatch\x06\x166") == [5]


@pytest.mark.parametrize("exchange", ["", "jobs"])
def test_a_connection_that_breaks_while_a_queue_is_declared_loses_no_message(proxy: Proxy, redis_url: str, exchange: str) -> None:
    """The first that a process sends: kombu would publish it on the channel that broke."""
    app = make_app(proxy.url())
    app.conf.task_queues = [Queue("dispatch", Exchange(exchange), routing_key="dispatch")]
    with in_task(app):
        proxy.lose_answer_to(b"_kombu.binding")
        app.send_task("job", (1,), queue="dispatch")

    assert proxy.lost == 1
    assert numbers(redis_url) == [1]


def test_a_message_that_never_arrived_is_sent_again(proxy: Proxy, redis_url: str) -> None:
    """Redis is away for a while before it is sent."""
    app = make_app(proxy.url())
    with in_task(app):
        app.send_task("job", (1,))
        proxy.refuse()
        threading.Timer(0.5, proxy.accept).start()
        app.send_task("job", (2,))

    assert numbers(redis_url) == [1, 2]


def test_a_redis_that_has_lost_its_scripts_gets_it(redis_url: str) -> None:
    """It was restarted."""
    app = make_app(redis_url)
    with in_task(app), connect(redis_url) as client:
        app.send_task("job", (1,))
        client.script_flush()
        app.send_task("job", (2,))

    assert numbers(redis_url) == [1, 2]


def test_keys_have_the_prefix_of_the_broker(proxy: Proxy, redis_url: str) -> None:
    """Both, where kombu would give it to the first only."""
    app = make_app(proxy.url(), global_keyprefix="team:")
    with in_task(app):
        app.send_task("job", (1,))
        proxy.lose_answer_to(b"(2,)")
        app.send_task("job", (2,))

    assert numbers(redis_url, "team:dispatch") == [1, 2]
    with connect(redis_url) as client:
        assert {key.rpartition(":")[0] for key in client.keys("*")} <= {"team", "team:dispatch:sent", "team:_kombu.binding"}


def test_senders_do_not_know_of_each_other(redis_url: str) -> None:
    """Each thread counts for itself, and so does a forked process: whatever number they are at, no message is taken for another's."""
    app = make_app(redis_url)

    def send(number: int) -> None:
        with in_task(app):
            app.send_task("job", (number,))

    send(0)
    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if (child := os.fork()) == 0:
        send(5)
        os._exit(0)
    os.waitpid(child, 0)

    assert sorted(numbers(redis_url)) == [0, 1, 2, 3, 4, 5]


def test_what_no_task_sends_goes_as_it_did(redis_url: str) -> None:
    """Celery's own way: nothing is left in the cell."""
    app = make_app(redis_url)
    app.send_task("job", (1,))
    app.send_task("job", (1,))

    assert numbers(redis_url) == [1, 1]
    with connect(redis_url) as client:
        assert client.keys("dispatch:*") == []
