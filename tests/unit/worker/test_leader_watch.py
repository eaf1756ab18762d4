"""What a worker says of a cell that nobody leads."""

from __future__ import annotations

import logging

import pytest

from dispatcher.clock import ManualClock
from dispatcher.worker.life.leader_watch import LEADERLESS_MAX_S, LeaderWatch


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def watch(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> LeaderWatch:
    caplog.set_level(logging.INFO)
    return LeaderWatch(clock, cell="gpus", remedy="start `dispatcher -A proj run`")


def beat(watch: LeaderWatch, clock: ManualClock, seconds: float, *, is_led: bool) -> None:
    """So many seconds of beats."""
    for _ in range(round(seconds)):
        watch.answered(is_led=is_led)
        clock.sleep(1)


def test_a_worker_without_a_dispatcher_says_what_to_do_once(
    watch: LeaderWatch, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As an error: nothing will run. Said where five seconds of beats heard of no leader, and not again."""
    beat(watch, clock, LEADERLESS_MAX_S, is_led=False)
    assert not caplog.messages
    beat(watch, clock, 60, is_led=False)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.message.startswith("no dispatcher leads this cell: start `dispatcher -A proj run`; ")
    assert "gpus" in record.message


def test_a_dispatcher_that_comes_and_goes_away_is_said_each_time(
    watch: LeaderWatch, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That it leads, and that nobody does any more."""
    for is_led in (False, True, False, True):
        beat(watch, clock, 7, is_led=is_led)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "no dispatcher leads this cell", "a dispatcher leads this cell now",
    ] * 2  # fmt: skip


def test_a_standby_that_takes_over_is_no_news(watch: LeaderWatch, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """However often."""
    for _ in range(5):
        beat(watch, clock, 4, is_led=False)
        beat(watch, clock, 1, is_led=True)
    assert not caplog.messages
