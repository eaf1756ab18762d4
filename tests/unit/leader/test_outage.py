"""How often an outage of Redis is told of."""

from __future__ import annotations

import redis

from dispatcher.events import Event, RedisBack, RedisLost
from dispatcher.leader.outage import BACK_AFTER_MS, Outage
from tests.unit.worker.test_cut_off import HandClock

FULL = redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


def test_a_redis_that_refuses_some_steps_is_one_outage() -> None:
    """Steps that write nothing go through where it is full: told once lost and, when all have gone through for a while, once back."""
    clock, told = HandClock(), list[Event]()
    outage = Outage(clock, told.append)
    for _ in range(20):
        outage.failed(FULL)
        clock.now_ms += BACK_AFTER_MS // 2
        outage.well()
    assert told == [RedisLost("OutOfMemoryError: command not allowed when used memory > 'maxmemory'.")]
    clock.now_ms += BACK_AFTER_MS
    outage.well()
    outage.well()
    assert told[1:] == [RedisBack(20 * BACK_AFTER_MS // 2)]
    outage.failed(FULL)
    assert len(told) == 3


def test_tries_come_further_apart_up_to_a_second() -> None:
    """Then as before, once it was back."""
    clock = HandClock()
    outage = Outage(clock, lambda _: None)
    assert [outage.failed(FULL) for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    outage.well()
    clock.now_ms += BACK_AFTER_MS
    outage.well()
    assert outage.failed(FULL) == 0.2
