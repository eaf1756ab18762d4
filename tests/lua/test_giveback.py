"""giveback: leases end without an ack: back in line, to wait a while, or to dead letters."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dispatcher.core.facts.labels import avoided, without
from dispatcher.core.facts.lane import ALONE, lane_name, parse_lane
from dispatcher.core.returns.ending import GiveBack
from dispatcher.core.returns.poison import Attempt
from dispatcher.errors import EpochEnded, NotLeader
from dispatcher.store.giveback import STORY_TTL_MS
from tests.lua.cell import LANE, Cell, nothing_written
from tests.lua.test_bury_late import FUTURE_MS, jobs_until


def test_jobs_return_to_the_head_of_their_lane_in_order(cell: Cell) -> None:
    """Newest first is how they are sent, so that the oldest is next; who waited behind them waits behind them."""
    worker = cell.worker()
    ids = cell.leased(worker, 3)
    given = [cell.leases(worker)[id_].job for id_ in ids]
    behind = cell.jobs(2)

    assert worker.giveback([GiveBack(id_) for id_ in reversed(ids)]) == 3

    assert [entry.job for entry in cell.waiting()] == given + behind
    assert cell.leases(worker) == {}
    assert cell.queued(worker) == []
    assert cell.woken()


def test_an_emptied_lane_is_known_again(cell: Cell) -> None:
    """Its name is put back into the set that the snapshot reads."""
    worker = cell.worker()
    ids = cell.leased(worker, 1)
    assert cell.text.smembers(cell.keys.lanes) == set()
    worker.giveback([GiveBack(ids[0])])

    assert cell.text.smembers(cell.keys.lanes) == {LANE}


@pytest.mark.parametrize("counter", ["crashes", "rejects", "reaps", "recalls"])
def test_each_cause_has_its_own_count(cell: Cell, counter: str) -> None:
    """It is kept in the frame, over any number of workers; the others stay 0, and the rest of the frame as it was."""
    worker = cell.worker()
    cell.jobs(1)
    (before,) = cell.waiting()
    for count in range(1, 4):
        (lease,) = cell.give(worker, 1)
        worker.giveback([GiveBack(lease, counter)])
        (entry,) = cell.waiting()
        assert getattr(entry, counter) == count
    assert entry.crashes + entry.rejects + entry.reaps + entry.recalls == 3
    assert (entry.job, entry.admitted_ms, entry.cost_ms) == (before.job, before.admitted_ms, before.cost_ms)


def test_a_count_stops_at_99(cell: Cell) -> None:
    """It has two digits; a job that comes back for ever must not break its frame."""
    worker = cell.worker()
    cell.jobs(1)
    for _ in range(101):
        worker.giveback([GiveBack(cell.give(worker, 1)[0], "recalls")])

    (entry,) = cell.waiting()
    assert entry.recalls == 99
    assert entry.lane == LANE


def test_a_recall_ends_only_what_was_not_started(cell: Cell) -> None:
    """REFUSED for the running one: it cannot be taken back."""
    worker = cell.worker()
    started, waiting = cell.leased(worker, 2)
    worker.take(cell.pop(worker))

    with nothing_written(cell):
        assert worker.giveback([GiveBack(started, "recalls")]) == 0
    assert worker.giveback([GiveBack(waiting, "recalls"), GiveBack(started, "recalls")]) == 1
    assert set(cell.leases(worker)) == {started}
    assert worker.take(waiting) is None


def test_a_started_job_that_crashed_goes_back(cell: Cell) -> None:
    """Its mark goes with its lease, and a new lease of it can be taken."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    worker.take(cell.pop(worker))
    worker.giveback([GiveBack(lease, "crashes", 3)])
    assert cell.taken(worker) == set()

    (again,) = cell.give(worker, 1)
    taken = worker.take(again)
    assert taken is not None
    assert (taken.entry.crashes, taken.entry.rejects, taken.entry.reaps) == (1, 0, 0)


def test_a_job_is_buried_when_its_count_reaches_the_most(cell: Cell) -> None:
    """Message kept, reason and last entry stored, marked unsettled: all in the script that ends the lease."""
    worker = cell.worker()
    (job,) = cell.jobs(1)
    for _ in range(3):
        (lease,) = cell.give(worker, 1)
        worker.giveback([GiveBack(lease, "crashes", 3, "crashed", 'it said "no"')])

    assert cell.waiting() == []
    assert cell.whereabouts() == [job]
    assert cell.text.zrange(cell.keys.dead_letters, 0, -1) == [job]
    assert cell.text.smembers(cell.keys.unsettled) == {job}
    assert job in cell.messages()
    reason = json.loads(cell.text.hget(cell.keys.dead_reasons, job))
    assert (reason["reason"], reason["detail"]) == ("crashed", 'it said "no"')
    assert reason["entry"][:16] == job
    assert reason["entry"].endswith(LANE)
    assert reason["entry"][38:40] == "03"


def test_a_story_grows_with_each_death_and_is_buried_with_its_job(cell: Cell) -> None:
    """Each line says who, and when by Redis' clock; the reason of the burial has all of them, and the key is gone."""
    worker = cell.worker()
    (job,) = cell.jobs(1)
    for number, bury_at in ((1, 0), (2, -1)):
        (lease,) = cell.give(worker, 1)
        now_s, now_us = cell.text.time()
        worker.take(cell.pop(worker), at_ms=now_s * 1000 + now_us // 1000)
        lines = cell.text.lrange(cell.keys.story(job), 0, -1)
        assert len(lines) == number - 1
        attempt = Attempt(f"w{number}@h", worker.epoch, 'it said "no"', alone=number == 2)
        worker.giveback([GiveBack(lease, "reaps", bury_at, "worker_died", attempt=attempt)])

    assert not cell.text.exists(cell.keys.story(job))
    reason = json.loads(cell.text.hget(cell.keys.dead_reasons, job))
    assert reason["reason"] == "worker_died"
    first, second = reason["story"]
    assert (first["worker"], first["alone"], second["worker"], second["alone"]) == ("w1@h", False, "w2@h", True)
    assert first["epoch"] == worker.epoch
    assert first["how"] == 'it said "no"'
    assert first["began_ms"] <= first["ended_ms"] <= second["began_ms"] <= second["ended_ms"]


def test_a_story_of_a_job_that_lives_on_is_forgotten_some_time(cell: Cell) -> None:
    """Nobody removes it with the job's ack; and a job that was not begun has no beginning in it."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    job = cell.leases(worker)[lease].job
    worker.giveback([GiveBack(lease, "crashes", attempt=Attempt("w@h", worker.epoch, "it died", alone=True))])

    assert 0 < cell.text.pttl(cell.keys.story(job)) <= STORY_TTL_MS
    (line,) = cell.text.lrange(cell.keys.story(job), 0, -1)
    assert json.loads(line)["began_ms"] is None


def test_what_is_no_line_of_a_story_is_not_buried_with_it(cell: Cell) -> None:
    """It would make the reason unreadable, and nobody could tell any more where the job belongs."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    job = cell.leases(worker)[lease].job
    cell.client.rpush(cell.keys.story(job), b"", b"\xff", b"{", b'{"a":', b'{"began_ms":1,"ended_ms":2,"how":"cut o')
    worker.giveback([GiveBack(lease, "reaps", -1, "worker_died", attempt=Attempt("w@h", worker.epoch, "it died", alone=False))])

    reason = json.loads(cell.text.hget(cell.keys.dead_reasons, job))
    assert [line["how"] for line in reason["story"]] == ["it died"]


def test_a_story_of_another_type_is_moved_aside(cell: Cell) -> None:
    """Its job goes back in line, or is buried, all the same."""
    worker = cell.worker()
    for bury_at in (0, -1):
        (lease,) = cell.leased(worker, 1)
        job = cell.leases(worker)[lease].job
        cell.client.set(cell.keys.story(job), "mine")
        worker.giveback([GiveBack(lease, "reaps", bury_at, "worker_died", attempt=Attempt("w@h", worker.epoch, "it died", alone=False))])
        assert cell.client.get(f"{cell.keys.story(job)}:aside") == b"mine"
        assert cell.client.hlen(cell.keys.leases(worker.epoch)) == 0
    assert cell.client.zcard(cell.keys.dead_letters) == 1


def test_a_suspect_waits_in_the_lane_of_those_that_run_alone(cell: Cell) -> None:
    """And comes back there, whatever sends it back: once a suspect, it is one until it ends."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    worker.giveback([GiveBack(lease, "reaps", suspect=True)])
    assert [entry.reaps for entry in cell.waiting(LANE + ALONE)] == [1]
    assert cell.text.smembers(cell.keys.lanes) == {LANE + ALONE}
    assert parse_lane(LANE + ALONE).alone

    for back in (GiveBack("", "reaps", suspect=True), GiveBack("", "recalls"), GiveBack("")):
        (lease,) = cell.give(worker, 1, lane=LANE + ALONE)
        worker.giveback([replace(back, lease_id=lease)])
        assert len(cell.waiting(LANE + ALONE)) == 1
    assert cell.waiting() == []


def test_a_job_waits_in_the_lane_that_the_worker_names(cell: Cell) -> None:
    """At its head, counted, and it is given from there: its worker could not read it, and that lane is not for this worker."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    elsewhere = lane_name(replace(parse_lane(LANE), requires=without((), worker.epoch)))
    worker.giveback([GiveBack(lease, "crashes", 3, lane=elsewhere)])
    assert [entry.crashes for entry in cell.waiting(elsewhere)] == [1]
    assert cell.text.smembers(cell.keys.lanes) == {elsewhere}
    assert avoided(parse_lane(elsewhere).requires) == (worker.epoch,)

    (lease,) = cell.give(worker, 1, lane=elsewhere)
    worker.giveback([GiveBack(lease)])
    assert len(cell.waiting(elsewhere)) == 1
    assert cell.waiting() == []


def test_at_once_and_never(cell: Cell) -> None:
    """`most` -1 buries without counting up to anything; 0 never buries."""
    worker = cell.worker()
    buried, kept = cell.leased(worker, 2)
    worker.giveback([GiveBack(buried, "reaps", -1, "at_most_once"), GiveBack(kept, "reaps", 0)])

    assert cell.text.zcard(cell.keys.dead_letters) == 1
    assert [entry.reaps for entry in cell.waiting()] == [1]


def test_a_rejected_job_waits_longer_each_time(cell: Cell) -> None:
    """It is scheduled: after 1 s, 2 s, 4 s … and never more than a minute, by Redis' clock."""
    worker = cell.worker()
    cell.jobs(1)
    waits_s = []
    for _ in range(9):
        (lease,) = cell.give(worker, 1)
        worker.giveback([GiveBack(lease, "rejects")], delay_ms=1_000)
        seconds, micros = cell.text.time()
        ((entry, due_ms),) = cell.text.zrange(cell.keys.scheduled, 0, -1, withscores=True)
        waits_s.append(round((due_ms - seconds * 1000 - micros / 1000) / 1000))
        cell.client.zadd(cell.keys.scheduled, {entry: 0})
        cell.store.apply([], tuple, promote=1)

    assert waits_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_rejected_job_does_not_wait_beyond_its_deadline(cell: Cell) -> None:
    """It is looked at again then, to be buried: whoever waits for it is told at once."""
    worker = cell.worker()
    jobs_until(cell, 5_000, FUTURE_MS)
    worker.giveback([GiveBack(lease, "rejects") for lease in cell.give(worker, 2)], delay_ms=1_000)

    due_ms = [due_ms for _, due_ms in cell.text.zrange(cell.keys.scheduled, 0, -1, withscores=True)]
    assert due_ms[0] == 5_000
    assert 5_000 < due_ms[1] < FUTURE_MS


def test_what_was_not_begun_in_time_is_buried(cell: Cell) -> None:
    """The lease, its id in the queue and the job go together; a job that was begun is left alone."""
    worker = cell.worker()
    jobs = jobs_until(cell, 1, FUTURE_MS)
    overdue, begun = cell.give(worker, 2)
    assert worker.take(begun)

    assert worker.giveback([GiveBack.late(overdue), GiveBack.late(begun)]) == 1

    assert set(cell.leases(worker)) == {begun}
    assert cell.queued(worker) == [begun]
    assert cell.text.smembers(cell.keys.unsettled) == {jobs[0]}
    assert json.loads(cell.text.hget(cell.keys.dead_reasons, jobs[0]))["reason"] == "deadline_passed"


def test_other_causes_do_not_wait(cell: Cell) -> None:
    """Only who asked for it is put off."""
    worker = cell.worker()
    ids = cell.leased(worker, 2)
    worker.giveback([GiveBack(ids[0], "crashes"), GiveBack(ids[1])], delay_ms=1_000)

    assert len(cell.waiting()) == 2


def test_the_worker_of_a_dead_epoch_gives_nothing_back(cell: Cell) -> None:
    """REFUSED: the leader does, or did."""
    worker = cell.worker()
    ids = cell.leased(worker, 2)
    worker.goodbye()

    with nothing_written(cell), pytest.raises(EpochEnded):
        worker.giveback([GiveBack(ids[0])])


def test_who_does_not_lead_gives_nothing_back(cell: Cell) -> None:
    """REFUSED."""
    worker = cell.worker()
    ids = cell.leased(worker, 2)

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.impostor().giveback(worker.epoch, [GiveBack(ids[0])])


def test_what_is_not_leased_is_not_given_back(cell: Cell) -> None:
    """REFUSED: acked, given back before, or another's: doing it again changes nothing."""
    worker, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    acked, given, kept = cell.leased(worker, 3)
    worker.ack([acked])
    worker.giveback([GiveBack(given)])

    with nothing_written(cell):
        assert worker.giveback([GiveBack(acked), GiveBack(given), GiveBack("unknown", "crashes", -1)]) == 0
        assert other.giveback([GiveBack(kept)]) == 0


def test_9000_leases_go_back_in_bounded_calls(cell: Cell) -> None:
    """500 a call, every job in one place after each, the old order in the end."""
    worker = cell.worker()
    jobs = cell.jobs(9_000)
    cell.give(worker, 9_000)
    leases = [GiveBack(id_) for id_, _, _ in cell.store.leases(worker.epoch)]
    for at in range(0, 9_000, 500):
        assert cell.store.giveback(worker.epoch, leases[at : at + 500]) == 500
        assert len(cell.leases(worker)) + len(cell.waiting()) == 9_000

    assert [entry.job for entry in cell.waiting()] == jobs


def test_a_lane_of_another_type_is_moved_aside(cell: Cell) -> None:
    """Or the leases of a dead worker would be its for ever."""
    worker = cell.worker()
    (lease,) = cell.leased(worker, 1)
    cell.text.set(cell.keys.lane(LANE), "not a list")

    assert worker.giveback([GiveBack(lease)]) == 1
    assert len(cell.waiting()) == 1
    assert cell.text.get(cell.keys.lane(LANE) + ":aside") == "not a list"
