"""What the tests themselves stand on: waiting, and servers of their own."""

from __future__ import annotations

import pytest

from tests.conftest import MakeRedis
from tests.eventually import eventually
from tests.redis_server import RedisServer


def test_eventually_returns_the_first_true_value() -> None:
    """It asks again until the answer is true, and hands that answer on."""
    answers = iter([0, "", "found", "later"])

    assert eventually(lambda: next(answers), 5) == "found"


def test_eventually_says_what_was_there() -> None:
    """Its failure names the expectation and the last thing seen."""
    with pytest.raises(AssertionError, match=r"not within 0 s: one job; last value: \[\]"):
        eventually(list, 0, "one job")


def test_eventually_shows_the_last_failed_assertion() -> None:
    """An assertion inside the predicate means 'not yet', and is shown in the end."""

    def predicate() -> bool:
        raise AssertionError("two of three jobs")

    with pytest.raises(AssertionError, match="two of three jobs"):
        eventually(predicate, 0)


def test_each_test_gets_an_empty_redis(redis_server: RedisServer, redis_url: str) -> None:
    """Nothing of an earlier test is left in any database."""
    assert redis_url == redis_server.url()
    for db in (0, 1):
        with redis_server.client(db) as client:
            assert client.dbsize() == 0


def test_a_redis_of_ones_own_survives_a_crash(make_redis: MakeRedis) -> None:
    """With an append-only file, what was written before SIGKILL is there after a restart."""
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    with server.client() as client:
        client.set("job", "1")

    server.kill()
    server.start()

    with server.client() as client:
        assert client.get("job") == b"1"
