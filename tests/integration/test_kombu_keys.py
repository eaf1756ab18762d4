"""What `dispatcher check` finds that Redis would refuse Celery's consumers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from dispatcher.store.keys import Keys
from dispatcher.store.operator.kombu_keys import kombu_types, refusals
from tests.conftest import MakeRedis
from tests.redis_server import RedisServer

KEYS = Keys(prefix="mine:")
TYPES = kombu_types(KEYS, {"gpu", "celery"}, {"tasks"})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


def problems(client: redis.Redis) -> list[str]:
    return list(refusals(client, TYPES, {"gpu", "celery"}, KEYS))


def test_a_redis_that_celery_uses_refuses_nothing(client: redis.Redis) -> None:
    """Empty, or with every key as kombu has it; and nothing is written."""
    assert problems(client) == []
    assert client.keys() == []
    for key, kind in TYPES.items():
        if kind == "list":
            client.lpush(key, "x")
        elif kind == "set":
            client.sadd(key, "x")
        elif kind == "hash":
            client.hset(key, "x", "x")
        else:
            client.zadd(key, {"x": 1})
    assert problems(client) == []
    assert {key: client.type(key) for key in client.scan_iter()} == TYPES


@pytest.mark.parametrize("key", TYPES)
def test_a_key_of_another_type_is_named(client: redis.Redis, key: str) -> None:
    """With what it is and what it must be; under the broker's prefix; of the queue's exchange, and of remote control, too."""
    client.set(key, "x")
    (sentence,) = problems(client)
    assert repr(key) in sentence
    assert f"is a string, and workers, which need a {TYPES[key]} there" in sentence


@pytest.mark.parametrize(("command", "key"), [("sadd", "mine:_kombu.binding.gpu"), ("lpush", "mine:gpu"), ("brpop", "mine:dispatch:wq:")])
def test_a_right_that_the_user_lacks_is_named(make_redis: MakeRedis, command: str, key: str) -> None:
    """In Redis' own words; asking for it changes nothing."""
    server: RedisServer = make_redis()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", f"-{command}")
    with redis.Redis.from_url(server.url(), decode_responses=True) as client:
        sentences = problems(client)
        assert any(f"{command.upper()} '{key}" in sentence and f"'{command}'" in sentence for sentence in sentences), sentences
        assert all("NOPERM" in sentence for sentence in sentences)
        assert client.keys() == []


def test_a_key_that_the_user_may_not_touch_is_named(make_redis: MakeRedis) -> None:
    """Redis' rights have patterns of keys, too."""
    server: RedisServer = make_redis()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetkeys", "~mine:gpu*", "~mine:celery*", "~mine:dispatch*")
    with redis.Redis.from_url(server.url(), decode_responses=True) as client:
        sentences = problems(client)
    assert sentences
    assert all("_kombu.binding" in sentence and "NOPERM" in sentence for sentence in sentences)
