"""What a worker makes of an answer of Redis that will not change by itself."""

from __future__ import annotations

import pytest
import redis

from dispatcher.clock import ManualClock
from dispatcher.store.redis_client.connection import is_lasting, sentence_of
from dispatcher.worker.life.refusals import OVER_S, REFUSED_MAX_S, Refusals

PIPELINE = "Command # 1 (SADD _kombu.binding.celery x) of pipeline caused error: {}"

LASTING = [
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.ResponseError(PIPELINE.format("WRONGTYPE Operation against a key holding the wrong kind of value")),
    redis.exceptions.NoPermissionError("this user has no permissions to run the 'sadd' command", status_code="NOPERM"),
    redis.ResponseError("ERR Error running script: @user_script: 9: The user executing the script can't run this command"),
    redis.ResponseError("unknown command 'EVALSHA'"),
    redis.ResponseError("DB index is out of range"),
]

PASSING = [
    redis.exceptions.ReadOnlyError("You can't write against a read only replica.", status_code="READONLY"),
    redis.ResponseError("ERR Error running script: READONLY You can't write against a read only replica."),
    redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"),
    redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.", status_code="OOM"),
    redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
    redis.ResponseError("BUSY Redis is busy running a script."),
    redis.ResponseError(PIPELINE.format("MASTERDOWN Link with MASTER is down")),
    redis.exceptions.ExecAbortError("Transaction discarded because of previous errors.", status_code="EXECABORT"),
    redis.ConnectionError("away"),
    redis.TimeoutError("away"),
    OSError("away"),
]


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_somebody_must_change_is_a_refusal(error: Exception) -> None:
    """It is waited for, but not for ever."""
    assert is_lasting(error)
    assert Refusals(ManualClock()).note(error)


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_ends_by_itself_is_none(error: Exception) -> None:
    """A failover, a full Redis and a lost connection are waited out as they were, and however often they come."""
    clock = ManualClock()
    refusals = Refusals(clock)
    for _ in range(100):
        assert refusals.note(error) == 0
        assert not refusals.now()
        clock.now_ms += 1000


def test_a_refused_worker_backs_off_and_ends() -> None:
    """Waits grow; after half a minute of nothing else it ends, and in as many tries as a person can read."""
    clock, waits_s = ManualClock(1_000), list[float]()
    refusals = Refusals(clock)
    while (wait_s := refusals.note(LASTING[0])) is not None:
        waits_s.append(wait_s)
        clock.now_ms += round(wait_s * 1000)
    assert waits_s == sorted(waits_s)
    assert REFUSED_MAX_S <= sum(waits_s) < REFUSED_MAX_S + waits_s[-1]
    assert len(waits_s) < 15
    assert max(waits_s) < OVER_S, "or a row never gets long"


def test_a_worker_that_works_again_is_refused_nothing() -> None:
    """What it was refused before is over: a refusal later begins anew."""
    clock = ManualClock(1_000)
    refusals = Refusals(clock)
    first = refusals.note(LASTING[0])
    refusals.note(LASTING[0])
    assert refusals.now() == str(LASTING[0])
    clock.now_ms += round(REFUSED_MAX_S * 1000)
    assert refusals.now() == ""
    assert refusals.note(LASTING[1]) == first
    assert refusals.now() == str(LASTING[1])


def test_a_refusal_is_told_in_redis_own_words() -> None:
    """With the code that redis-py takes off, once; and no longer than a line."""
    assert sentence_of(LASTING[2]) == "NOPERM this user has no permissions to run the 'sadd' command"
    assert sentence_of(redis.ResponseError("WRONGTYPE Operation")) == "WRONGTYPE Operation"
    assert len(sentence_of(redis.ResponseError("x" * 10_000))) == 300
