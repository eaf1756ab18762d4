"""heartbeat: a worker lives, and hears what is wanted of it."""

from __future__ import annotations

from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, BeatStatus
from tests.life import Life
from tests.lua.cell import Cell, nothing_written


def test_a_beat_is_dated_by_the_ttl_it_gives(cell: Cell) -> None:
    """The age of a beat is what has gone of it."""
    worker = cell.worker()
    cell.client.pexpire(cell.keys.alive(worker.epoch), 60_000)

    assert worker.heartbeat({}).status is BeatStatus.OK
    assert 60_000 < cell.text.pttl(cell.keys.alive(worker.epoch)) <= ALIVE_TTL_MS


def test_a_beat_brings_facts_and_takes_home_what_is_leased(cell: Cell) -> None:
    """Leases and queue are what the worker compares with what it holds."""
    worker = cell.worker()
    popped, queued = cell.leased(worker, 2)
    worker.take(cell.pop(worker))

    beat = worker.heartbeat({"done": 5, "running": 1})

    assert (beat.leases, beat.queued, beat.draining) == ({popped, queued}, {queued}, "")
    facts = cell.text.hgetall(cell.keys.worker(worker.epoch))
    assert (facts["done"], facts["running"]) == ("5", "1")
    assert "registration" in facts


def test_totals_stay_until_they_change(cell: Cell) -> None:
    """A beat without totals leaves what an earlier one told."""
    worker = cell.worker()
    worker.heartbeat({}, b'{"failures_in_row":2}')
    worker.heartbeat({"done": 5})

    assert cell.store.policy().totals() == {worker.epoch: b'{"failures_in_row":2}'}


def test_a_draining_worker_is_told_so(cell: Cell) -> None:
    """And whether to exit."""
    worker = cell.worker()
    answers = []
    for mode in ("keep", "", "exit"):
        worker.drain(mode)
        answers.append(worker.heartbeat({}).draining)

    assert answers == ["keep", "", "exit"]


def test_a_worker_that_was_declared_dead_is_told_so(cell: Cell) -> None:
    """REFUSED: its jobs belong to others; it must end (scenario 8)."""
    worker = cell.worker()
    cell.leased(worker, 1)
    worker.goodbye()

    with nothing_written(cell):
        beat = worker.heartbeat({"done": 1}, b"{}")
    assert (beat.status, beat.leases, beat.queued) == (BeatStatus.DEAD, frozenset(), frozenset())


def test_a_worker_that_redis_does_not_know_is_told_so(cell: Cell) -> None:
    """REFUSED: Redis lost its state; that is no reason to kill running jobs (scenario 34)."""
    stranger = Life(cell.text, cell.keys, "bbbbbbbbbbbb")

    with nothing_written(cell):
        assert stranger.heartbeat({"done": 1}, b"{}").status is BeatStatus.UNKNOWN


def test_a_full_redis_does_not_make_a_fleet_look_dead(cell: Cell) -> None:
    """PEXPIRE is accepted where other writes are refused (scenario 31)."""
    worker = cell.worker()
    cell.client.pexpire(cell.keys.alive(worker.epoch), 60_000)
    cell.client.config_set("maxmemory", "1")
    try:
        status = worker.heartbeat({"done": 5}, b"{}").status
    finally:
        cell.client.config_set("maxmemory", "0")

    assert status is BeatStatus.OK
    assert cell.text.pttl(cell.keys.alive(worker.epoch)) > 60_000


def test_a_long_queue_does_not_make_a_long_answer(cell: Cell) -> None:
    """A worker that reconciles needs all leases; of its queue it sees a thousand."""
    worker = cell.worker()
    cell.jobs(1_500)
    cell.give(worker, 1_500)
    beat = worker.heartbeat({})

    assert (len(beat.leases), len(beat.queued)) == (1_500, 1_000)


def test_a_beat_hears_if_a_dispatcher_leads(cell: Cell) -> None:
    """So that a worker which nobody dispatches to can say so."""
    worker = cell.worker()
    assert worker.heartbeat({}).is_led
    cell.client.delete(cell.keys.leader)
    assert not worker.heartbeat({}).is_led
    worker.goodbye()
    assert not worker.heartbeat({}).is_led
