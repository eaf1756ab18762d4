"""What `dispatcher check` finds out about a real Redis."""

from __future__ import annotations

import pytest
import redis
from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.store.redis_client.server import ServerFacts, read_server_facts
from tests.conftest import MakeRedis
from tests.redis_server import RedisServer
from tests.sentinels import Sentinels

SOUND = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")


def facts_of(server: RedisServer) -> ServerFacts:
    with server.client(decode_responses=True) as client:
        return read_server_facts(client)


def test_a_sound_redis_has_nothing_wrong(make_redis: MakeRedis) -> None:
    """Append-only file, no eviction: neither problem nor warning."""
    found = facts_of(make_redis(*SOUND))
    assert (found.problems, found.warnings) == ([], [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--appendonly", "no"), "appendonly is no"),
        ((*SOUND, "--appendfsync", "no"), "appendfsync is no"),
    ],
)
def test_persistence_that_is_missing_is_a_warning(make_redis: MakeRedis, options: tuple[str, ...], said: str) -> None:
    """One may run without, and know it."""
    found = facts_of(make_redis(*options))
    assert found.problems == []
    assert said in found.warnings[0]


def test_what_a_user_may_not_see_is_named(make_redis: MakeRedis) -> None:
    """Without the right to read the configuration there is no warning of it; `dispatcher check` says what it did not look at."""
    server = make_redis(*SOUND, "--appendfsync", "no")
    with server.client() as client:
        client.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-config"])
    url = server.url().replace("://", "://guest:any@", 1)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found = read_server_facts(client)
    assert (found.problems, found.warnings, found.unread) == ([], [], ["save", "appendfsync"])
    result = CliRunner().invoke(cli, ["--redis-url", url, "check"])
    assert result.exit_code == 0
    assert "not checked, because this Redis does not show it: save, appendfsync" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
        (("--maxmemory-policy", "volatile-ttl"), "maxmemory-policy is volatile-ttl"),
    ],
)
def test_a_redis_that_evicts_is_a_problem(make_redis: MakeRedis, options: tuple[str, ...], said: str) -> None:
    """On such a Redis nothing may run."""
    assert said in facts_of(make_redis("--appendonly", "yes", *options)).problems[0]


@pytest.mark.parametrize(
    ("options", "said"), [(("--maxmemory", "1"), "it is full"), (("--replicaof", "127.0.0.1", "1"), "is a replica")]
)
def test_a_redis_that_takes_no_writes_now_is_told_of(make_redis: MakeRedis, options: tuple[str, ...], said: str) -> None:
    """It may again: a dispatcher that starts waits for that."""
    found = facts_of(make_redis("--appendonly", "yes", *options))
    assert said in found.refusals[0]
    assert found.problems == []


def test_a_master_that_needs_no_replica_is_told_of(sentinels: Sentinels) -> None:
    """As `deploy/redis` has it there is nothing to say; without its line about replicas there is."""
    with sentinels.client(decode_responses=True) as client:
        found = read_server_facts(client)
        assert (found.problems, found.warnings) == ([], [])
        client.config_set("min-replicas-to-write", 0)
        assert "min-replicas-to-write is 0" in read_server_facts(client).warnings[0]
