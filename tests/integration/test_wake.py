"""The dispatcher's sleep: it ends when something comes, and takes nothing away."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import redis

from dispatcher.leader import wake as wake_module
from dispatcher.leader.wake import Waker
from dispatcher.store.keys import Keys
from dispatcher.store.leader.admit_batch import IngressList
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import Granted, LookWish
from dispatcher.store.redis_client.connection import connect
from tests.eventually import eventually

LISTS = ["dispatch", "dispatch\x06\x163", "gpu"]
INGRESS = [IngressList(key, key, 0) for key in LISTS]
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


@pytest.fixture
def store(client: redis.Redis) -> DispatchStore:
    return DispatchStore(client, Keys(), "t1")


def blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def is_asleep(
    waker: Waker, client: redis.Redis, lists: list[str], wake: Callable[[], object], wish: LookWish | None = None
) -> Granted | None:
    """Sleeps in a thread, calls ``wake`` once it does; what it woke up with. Fails if it does not wake up."""
    slept: list[Granted | None] = []
    failed: list[Exception] = []
    sleeps = threading.Event()

    def select_in_sight(*arguments: Any) -> Any:
        if arguments[-1]:  # it has looked for what came while it was awake, and sleeps from now on
            sleeps.set()
        return select.select(*arguments)

    def sleep() -> None:
        try:
            slept.append(waker.wait(lists, LONG_S, wish))
        except redis.RedisError as exc:
            failed.append(exc)

    thread = threading.Thread(target=sleep, daemon=True)
    with mock.patch.object(wake_module, "select", SimpleNamespace(select=select_in_sight)):
        thread.start()
        assert sleeps.wait(20), "the waker did not go to sleep"
        eventually(lambda: blocked(client) == len(lists) + 1, message="Redis does not have all its commands")
        wake()
        thread.join(20)
    if failed:
        raise failed[0]
    assert slept, "it did not wake up"
    return slept[0]


@pytest.mark.parametrize("key", LISTS)
def test_a_message_on_any_list_wakes_it(waker: Waker, client: redis.Redis, key: str) -> None:
    """And stays where it is, as the only copy of it."""
    is_asleep(waker, client, LISTS, lambda: client.lpush(key, b"job"))
    assert client.lrange(key, 0, -1) == [b"job"]


def test_a_word_from_a_script_wakes_it(waker: Waker, client: redis.Redis) -> None:
    """That one is read off: it is no job."""
    is_asleep(waker, client, LISTS, lambda: client.lpush("dispatch:wake", b"1"))
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


def test_what_was_wished_for_comes_with_what_wakes_it(waker: Waker, client: redis.Redis, store: DispatchStore) -> None:
    """The look that Redis took when the message came has it; the next sleep brings the next one."""
    wish = store.wish(INGRESS, limit=10, message_bytes_max=1000)
    client.script_flush()
    store.look([], limit=1, message_bytes_max=1000)  # loads the scripts
    for number in (1, 2):
        granted = is_asleep(waker, client, LISTS, lambda number=number: client.lpush("gpu", b"%d" % number), wish)
        look = granted.look(INGRESS)
        assert look.messages == {2: [b"%d" % number]}
        assert granted.look(INGRESS[:1]) is None
        client.delete("gpu")


def test_a_wish_that_was_granted_while_it_was_awake_is_none(waker: Waker, client: redis.Redis, store: DispatchStore) -> None:
    """What Redis saw then may be older than what was done since."""
    wish = store.wish(INGRESS, limit=10, message_bytes_max=1000)
    waker.wait(LISTS, 0.01, wish)
    client.lpush("gpu", b"job")

    assert waker.wait(LISTS, LONG_S, wish) is None


def test_a_wish_that_redis_does_not_know_is_none(waker: Waker, client: redis.Redis, store: DispatchStore) -> None:
    """Redis was restarted, and has lost the scripts: it wakes up all the same."""
    wish = store.wish(INGRESS, limit=10, message_bytes_max=1000)
    client.script_flush()
    granted = is_asleep(waker, client, LISTS, lambda: client.lpush("gpu", b"job"), wish)

    assert granted.look(INGRESS) is None


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

    is_asleep(waker, client, ["dispatch", "new"], lambda: client.lpush("new", b"job"))
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

    is_asleep(waker, client, LISTS, lambda: client.lpush("gpu", b"job"))
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
    is_asleep(waker, client, LISTS, lambda: client.lpush("gpu", b"job"))


def test_closed_it_leaves_nothing_blocked(waker: Waker, client: redis.Redis) -> None:
    """Its commands end with its connections."""
    waker.wait(LISTS, 0.01)
    assert blocked(client) == len(LISTS) + 1
    waker.close()

    eventually(lambda: blocked(client) == 0)
