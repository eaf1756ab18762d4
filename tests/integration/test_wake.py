"""The dispatcher's sleep: it ends when something comes, and takes nothing away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from dispatcher.service.wake import Waker
from dispatcher.store.connection import connect
from tests.support import eventually

LISTS = ["dispatch", "dispatch\x06\x163", "gpu"]
LONG_S = 60.0
"""Longer than any test may take: a wait that ends has been woken."""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = connect(redis_url, text=False)
    yield made
    made.close()


@pytest.fixture
def waker(client: redis.Redis) -> Iterator[Waker]:
    made = Waker(client, "dispatch:wake")
    yield made
    made.close()


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def is_asleep(waker: Waker, client: redis.Redis, lists: list[str], wake: Callable[[], object]) -> float:
    """Sleeps in a thread, calls ``wake`` once it does; seconds that it slept. Fails if it does not wake up."""
    began, slept = time.monotonic(), []
    failed: list[Exception] = []

    def sleep() -> None:
        try:
            waker.wait(lists, LONG_S)
        except redis.RedisError as exc:
            failed.append(exc)
        slept.append(time.monotonic() - began)

    thread = threading.Thread(target=sleep, daemon=True)
    thread.start()
    eventually(lambda: blocked(client) == len(lists) + 1, message="the waker did not go to sleep")
    wake()
    thread.join(20)
    assert slept, "it did not wake up"
    if failed:
        raise failed[0]
    return slept[0]


@pytest.mark.parametrize("key", LISTS)
def test_a_message_on_any_list_wakes_it(waker: Waker, client: redis.Redis, key: str) -> None:
    """And stays where it is, as the only copy of it."""
    assert is_asleep(waker, client, LISTS, lambda: client.lpush(key, b"job")) < LONG_S
    assert client.lrange(key, 0, -1) == [b"job"]


def test_a_word_from_a_script_wakes_it(waker: Waker, client: redis.Redis) -> None:
    """That one is read off: it is no job."""
    assert is_asleep(waker, client, LISTS, lambda: client.lpush("dispatch:wake", b"1")) < LONG_S
    assert client.exists("dispatch:wake") == 0


def test_it_does_not_sleep_where_something_is(waker: Waker, client: redis.Redis) -> None:
    """Messages that came before it looked count as well; their order does not change."""
    client.lpush("gpu", b"a", b"b", b"c")
    waker.wait(LISTS, LONG_S)

    assert client.lrange("gpu", 0, -1) == [b"c", b"b", b"a"]


def test_many_sleeps_pop_nothing(waker: Waker, client: redis.Redis) -> None:
    """Over any number of wakes every message is there once, in order."""
    sent = [b"%d" % i for i in range(200)]
    for one in sent:
        client.lpush("dispatch", one)
        waker.wait(LISTS, LONG_S)

    assert client.lrange("dispatch", 0, -1) == sent[::-1]


def test_without_a_word_it_wakes_in_time(waker: Waker) -> None:
    """The time it was given, and no longer than that for ever."""
    began = time.monotonic()
    waker.wait(LISTS, 0.05)

    assert time.monotonic() - began >= 0.04


def test_what_came_while_it_was_awake_is_not_missed(waker: Waker, client: redis.Redis) -> None:
    """Between two sleeps the dispatcher works; the next sleep ends at once."""
    waker.wait(LISTS, 0.01)
    client.lpush("dispatch", b"job")
    waker.wait(LISTS, LONG_S)

    assert client.llen("dispatch") == 1


def test_lists_come_and_go(waker: Waker, client: redis.Redis) -> None:
    """A queue that was paused wakes nobody; one that a worker has named since does."""
    waker.wait(["dispatch", "gpu"], 0.01)
    client.lpush("gpu", b"paused")

    assert is_asleep(waker, client, ["dispatch", "new"], lambda: client.lpush("new", b"job")) < LONG_S
    assert client.llen("gpu") == client.llen("new") == 1


def test_it_holds_no_more_connections_than_lists(waker: Waker, client: redis.Redis) -> None:
    """However often it sleeps."""
    for _ in range(20):
        client.lpush("dispatch:wake", b"1")
        waker.wait(LISTS, LONG_S)
    waker.wait(LISTS, 0.01)

    assert blocked(client) == len(LISTS) + 1


def test_a_killed_connection_is_said_and_survived(waker: Waker, client: redis.Redis) -> None:
    """It raises what redis-py raises, so that the dispatcher knows of the outage; the next sleep connects anew."""

    def kill() -> None:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with pytest.raises(redis.RedisError):
        is_asleep(waker, client, LISTS, kill)
    eventually(lambda: blocked(client) == 0)

    assert is_asleep(waker, client, LISTS, lambda: client.lpush("gpu", b"job")) < LONG_S
    assert client.llen("gpu") == 1


def test_a_key_that_is_no_list_does_not_keep_it_awake(waker: Waker, client: redis.Redis) -> None:
    """Somebody's string under the name of a queue is neither an outage nor a job: it sleeps, and wakes up for the others."""
    client.set("gpu", "a string")
    began = time.monotonic()
    for _ in range(3):
        waker.wait(LISTS, 0.03)
    assert time.monotonic() - began >= 0.08

    client.lpush("dispatch", b"job")
    waker.wait(LISTS, LONG_S)
    client.delete("gpu")
    client.lpop("dispatch")
    waker.wait(LISTS, 0.01)
    assert is_asleep(waker, client, LISTS, lambda: client.lpush("gpu", b"job")) < LONG_S


def test_closed_it_leaves_nothing_blocked(waker: Waker, client: redis.Redis) -> None:
    """Its commands end with its connections."""
    waker.wait(LISTS, 0.01)
    assert blocked(client) == len(LISTS) + 1
    waker.close()

    eventually(lambda: blocked(client) == 0)
