"""What a worker holds and what it still has to tell Redis, without Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from dispatcher.clock import ManualClock
from dispatcher.core.facts.evidence import KindTotals, Running, WorkerTotals
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import EpochEnded
from dispatcher.store.worker.lease_pipe import OTHERS_MAX, Started
from dispatcher.store.worker.worker_store import Beat, BeatStatus
from dispatcher.worker.life.held import Outcome
from dispatcher.worker.life.keeper import LeaseKeeper

ENTRY = b"1000000000000001" + b"1".zfill(13) + b"1000".zfill(9) + b"00000000" + b"0" * 13 + b"dispatch/my%2Ftask/default/p0/c10"


class FakePipe:
    """Redis' side of take and ack."""

    def __init__(self) -> None:
        self.acked: list[list[str]] = []
        self.away = False
        self.ended = False
        self.late = False
        self.takes = self.others = 0
        self.queue: list[str] = []
        self.meanwhile: Callable[[], object] = list

    def take(self, lease_id: bytes, at_ms: int, others: int) -> tuple[list[Started], list[str]]:
        self.takes += 1
        self.others = others
        if self.away:
            raise redis.ConnectionError("away")
        self.meanwhile()
        ids = [lease_id.decode(), *self.queue[:others]]
        self.queue = self.queue[others:]
        return ([], ids) if self.late else ([Started(id_, b"{}", ENTRY) for id_ in ids], [])

    def ack(self, lease_ids: list[str]) -> int:
        if self.away:
            raise redis.ConnectionError("away")
        self.acked.append(list(lease_ids))
        if self.ended:
            raise EpochEnded("worker life e1 was declared dead")
        return len(lease_ids)

    def close(self) -> None:
        pass


class FakeStore:
    """Redis' side of giveback."""

    epoch = "e"

    def __init__(self) -> None:
        self.returned: list[list[GiveBack]] = []

    def giveback(self, leases: list[GiveBack], *, delay_ms: int) -> int:
        self.returned.append(list(leases))
        return len(leases)


class Loop:
    """The consumer's loop: runs what it was asked to when told."""

    def __init__(self) -> None:
        self.due: list = []

    def call_soon(self, function) -> None:
        self.due.append(function)

    def round(self) -> None:
        due, self.due = self.due, []
        for function in due:
            function()


def make(**how: Any) -> tuple[LeaseKeeper, FakePipe, FakeStore, Loop, ManualClock]:
    pipe, store, loop, clock = FakePipe(), FakeStore(), Loop(), ManualClock(1000)
    keeper = LeaseKeeper(store, pipe, clock, reject_backoff_ms=1000, call_soon=loop.call_soon, **how)
    keeper.limit = 2
    return keeper, pipe, store, loop, clock


def beat(*leases: str, queued: tuple[str, ...] = ()) -> Beat:
    return Beat(BeatStatus.OK, "", frozenset(leases), frozenset(queued))


def test_what_ends_in_one_round_of_the_loop_goes_out_in_one_call() -> None:
    """Acks gather until the loop's next round, and are sent together."""
    keeper, pipe, _, loop, _ = make()
    for name in (b"e.1", b"e.2"):
        keeper.take(name)
    keeper.ack("e.1", Outcome.DONE)
    keeper.ack("e.2", Outcome.DONE)
    assert pipe.acked == []
    loop.round()
    assert pipe.acked == [["e.1", "e.2"]]
    assert keeper.unsent == 0


def test_an_ack_never_raises_and_waits_for_redis() -> None:
    """While Redis is away acks stay in the outbox, cost no further attempt, and leave with the next beat that is answered."""
    keeper, pipe, _, loop, _ = make()
    keeper.take(b"e.1")
    keeper.take(b"e.2")
    pipe.away = True
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    assert not keeper.outbox.reachable
    pipe.away = False
    keeper.ack("e.2", Outcome.DONE)
    loop.round()
    assert pipe.acked == []
    keeper.answered(beat("e.1", "e.2"))
    assert pipe.acked == [["e.1", "e.2"]]


def test_held_jobs_use_up_the_credit() -> None:
    """What is held counts against the limit, whatever channel it came by; ending one gives credit back."""
    keeper, *_ = make()
    assert keeper.can_take(2)
    keeper.take(b"e.1")
    keeper.take(b"e.2")
    assert not keeper.can_take(2)
    assert keeper.can_take(0)
    keeper.ack("e.1", Outcome.DONE)
    assert keeper.can_take(2)
    keeper.paused = True
    assert not keeper.can_take(2)


def test_what_stands_next_in_the_queue_is_taken_with_it_as_far_as_there_is_room() -> None:
    """One call for all; never more than the consumer may hold."""
    keeper, pipe, *_ = make()
    keeper.limit, pipe.queue = 4, ["e.2", "e.3", "e.4", "e.5"]
    keeper.take(b"e.1")
    assert (list(keeper.held()), pipe.others) == (["e.1", "e.2", "e.3", "e.4"], 3)
    keeper.ack("e.2", Outcome.DONE)
    assert [name for name, _ in keeper.take(b"e.6")] == ["e.6"]
    keeper.limit = 0
    keeper.take(b"e.7")
    assert pipe.others == OTHERS_MAX


def test_what_ended_here_is_not_held_again_though_redis_shows_it_again() -> None:
    """It lost its last writes: the beats end the lease once more."""
    keeper, pipe, store, loop, _ = make()
    keeper.take(b"e.1")
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    pipe.queue = ["e.1"]
    assert [name for name, _ in keeper.take(b"e.2")] == ["e.2"]
    keeper.answered(beat("e.1", "e.2"))
    keeper.answered(beat("e.1", "e.2"))
    assert (pipe.acked, store.returned) == ([["e.1"], ["e.1"]], [])


def test_what_runs_here_is_not_begun_again_though_redis_shows_it_again() -> None:
    """It lost the mark that the job was started, alone or behind another: what is held stays as it is, and ends once."""
    keeper, pipe, _, loop, _ = make()
    keeper.limit = 4
    keeper.take(b"e.1")
    keeper.started("e.1", 5)
    pipe.queue = ["e.1"]
    assert keeper.take(b"e.1") == []
    assert [name for name, _ in keeper.take(b"e.2")] == ["e.2"]
    assert keeper.held()["e.1"].started_ms == 5
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    assert pipe.acked == [["e.1"]]


def test_beats_give_nothing_back_while_a_take_is_under_way() -> None:
    """What it has popped in Redis is neither in the queue nor held here yet."""
    keeper, pipe, store, _, _ = make()
    pipe.queue, pipe.meanwhile = ["e.2"], lambda: [keeper.answered(beat("e.1", "e.2")) for _ in range(3)]
    keeper.take(b"e.1")
    assert (list(keeper.held()), store.returned) == (["e.1", "e.2"], [])


def test_a_lease_that_nobody_holds_is_given_back_after_two_beats() -> None:
    """Seen once it may be on its way; seen twice in a row it is given back, and then never started here."""
    keeper, pipe, store, _, _ = make()
    keeper.answered(beat("e.1", "e.2", queued=("e.2",)))
    keeper.answered(beat("e.2", queued=("e.2",)))
    keeper.answered(beat("e.1"))
    assert store.returned == []
    keeper.answered(beat("e.1"))
    assert store.returned == [[GiveBack("e.1")]]
    assert keeper.take(b"e.1") == []
    assert pipe.takes == 0


def test_a_take_whose_answer_was_lost_is_given_back() -> None:
    """The job may count as taken in Redis: it is held by nobody, so the beats return it."""
    keeper, pipe, store, _, _ = make()
    pipe.away = True
    with contextlib.suppress(redis.ConnectionError):
        keeper.take(b"e.1")
    keeper.answered(beat("e.1"))
    keeper.answered(beat("e.1"))
    assert store.returned == [[GiveBack("e.1")]]


def test_a_late_job_is_not_held_and_is_sent_to_be_buried() -> None:
    """It uses up no credit, counts as no run, and is not taken for a lease that nobody holds."""
    keeper, pipe, store, loop, _ = make()
    pipe.late = True

    assert keeper.take(b"e.1") == []
    keeper.answered(beat("e.1"))
    loop.round()

    assert store.returned == [[GiveBack.late("e.1")]]
    assert (keeper.held(), keeper.unsent, keeper.facts()["failed"]) == ({}, 0, 0)


def test_an_ack_that_redis_lost_is_sent_again() -> None:
    """A lease that was acked here and shows again is acked again, not run again."""
    keeper, pipe, store, loop, _ = make()
    keeper.take(b"e.1")
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    keeper.answered(beat("e.1"))
    keeper.answered(beat("e.1"))
    assert pipe.acked == [["e.1"], ["e.1"]]
    assert store.returned == []


def test_ending_twice_counts_once() -> None:
    """A second end of the same lease changes nothing."""
    keeper, pipe, store, loop, _ = make()
    keeper.take(b"e.1")
    keeper.started("e.1", 1000)
    keeper.ack("e.1", Outcome.DONE)
    keeper.give_back(GiveBack("e.1", "crashes", 3))
    loop.round()
    assert (pipe.acked, store.returned) == ([["e.1"]], [])
    assert keeper.facts()["done"] == 1
    assert keeper.facts()["failed"] == 0


def test_totals_count_only_what_was_started() -> None:
    """busy_ms is the time between start and end; a job that was revoked before its start counts as nothing."""
    keeper, _, _, _, clock = make()
    keeper.take(b"e.1")
    keeper.take(b"e.2")
    keeper.started("e.1", 900)
    clock.now_ms = 1500
    assert keeper.facts()["running"] == 1
    keeper.give_back(GiveBack("e.1", "crashes", 3))
    keeper.ack("e.2", Outcome.DONE)
    facts = keeper.facts()
    assert (facts["done"], facts["failed"], facts["busy_ms"], facts["running"]) == (0, 1, 600, 0)


def test_what_the_model_took_to_load_is_no_part_of_the_job() -> None:
    """Neither of its time when it has ended nor of its age while it runs; a job too short for a load is not looked at."""
    asked: list[tuple[int, str, int, int]] = []

    def loading_ms(*of: Any) -> int:
        asked.append(of)
        return 250

    keeper, _, _, _, clock = make(loading_ms=loading_ms)
    for name in (b"e.1", b"e.2"):
        keeper.take(name)
        keeper.started(name.decode(), 1_000, 77)
    clock.now_ms = 1_004
    keeper.ack("e.2", Outcome.DONE)
    clock.now_ms = 1_300
    assert [one.age_ms for one in told(keeper).running] == [50]
    keeper.ack("e.1", Outcome.DONE)

    assert [one.busy_ms for one in told(keeper).kinds] == [54]
    assert keeper.facts()["busy_ms"] == 54
    assert asked == [(77, "default", 1_000, 1_300)] * 2


def test_the_age_of_the_last_look_counts_only_while_there_is_credit() -> None:
    """A full or paused worker need not look at its queue; a freed one must, from the moment it is free."""
    keeper, _, _, _, clock = make()
    keeper.take(b"e.1")
    keeper.take(b"e.2")
    clock.now_ms = 60_000
    assert keeper.facts()["consume_age_ms"] == 0
    keeper.ack("e.1", Outcome.DONE)
    clock.now_ms = 64_000
    assert keeper.facts()["consume_age_ms"] == 4000
    keeper.looked()
    assert keeper.facts()["consume_age_ms"] == 0


def test_after_its_life_has_ended_it_starts_nothing_and_says_nothing() -> None:
    """Declared dead: no take reaches Redis, no ack does."""
    keeper, pipe, _, loop, _ = make()
    keeper.take(b"e.1")
    keeper.end()
    assert keeper.take(b"e.2") == []
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    assert pipe.takes == 1
    assert pipe.acked == []


def test_acks_of_a_life_that_has_ended_are_dropped() -> None:
    """Refused by Redis: they change nothing and are not sent for ever."""
    keeper, pipe, _, loop, _ = make()
    keeper.take(b"e.1")
    pipe.ended = True
    keeper.ack("e.1", Outcome.DONE)
    loop.round()
    assert keeper.unsent == 0


def test_the_task_of_a_held_job_is_read_from_its_lane() -> None:
    """Names of tasks are percent-encoded in lanes."""
    keeper, *_ = make()
    ((_, held),) = keeper.take(b"e.1")
    assert held.task == "my/task"
    assert not held.runs_again


def test_what_was_not_begun_goes_back_as_it_was() -> None:
    """At an end, uncounted; what was begun stays for its ack."""
    keeper, _, store, loop, _ = make()
    keeper.take(b"e.1")
    keeper.take(b"e.2")
    keeper.started("e.1", 0)
    keeper.return_unbegun()
    loop.round()
    assert list(keeper.held()) == ["e.1"]
    assert store.returned == [[GiveBack("e.2")]]


def told(keeper: LeaseKeeper) -> WorkerTotals:
    return msgspec.json.decode(keeper.totals(), type=WorkerTotals)


def test_totals_are_kept_by_kind_of_job() -> None:
    """Task, model and cost come from the job's entry; only what was done counts for speed; a job nobody gave a cost counts apart."""
    keeper, _, _, _, clock = make()
    ends = ((b"e.1", Outcome.DONE, True), (b"e.2", Outcome.DONE, False), (b"e.3", Outcome.FAILED, True), (b"e.4", Outcome.RETRIED, True))
    for name, outcome, guessed in ends:
        ((_, held),) = keeper.take(name)
        held.guessed = guessed
        keeper.started(name.decode(), clock.now_ms)
        clock.now_ms += 250
        keeper.ack(name.decode(), outcome)

    assert told(keeper).kinds == [
        KindTotals(
            "my/task", "default", done=2, failed=1, retried=1, busy_ms=500, cost_ms=2_000,
            guessed=1, guessed_busy_ms=250, guessed_cost_ms=1_000,
        )
    ]  # fmt: skip


def test_failures_in_a_row_end_with_a_job_that_is_done() -> None:
    """A retry is neither."""
    keeper, _, _, _, clock = make()
    rows = []
    for at, outcome in enumerate((Outcome.FAILED, Outcome.FAILED, Outcome.RETRIED, Outcome.FAILED, Outcome.DONE)):
        name = f"e.{at}"
        keeper.take(name.encode())
        keeper.started(name, clock.now_ms)
        keeper.ack(name, outcome)
        rows.append(told(keeper).failures_in_row)

    assert rows == [1, 2, 2, 3, 0]


def test_the_oldest_running_jobs_are_told_of() -> None:
    """A few, with their ages; what has not begun is not among them."""
    keeper, _, _, _, clock = make()
    for at in range(7):
        keeper.take(f"e.{at}".encode())
        if at:
            keeper.started(f"e.{at}", 2_000 - 100 * at)
    clock.now_ms = 3_000

    assert [one.age_ms for one in told(keeper).running] == [1_600, 1_500, 1_400, 1_300]
    assert told(keeper).running[0] == Running("my/task", "default", 1_600, 1_000)


def test_a_new_life_counts_from_nothing() -> None:
    """Totals are told by life: the dispatcher would learn from the old ones twice."""
    keeper, pipe, store, _, _ = make()
    keeper.take(b"e.1")
    keeper.started("e.1", 1_000)
    keeper.ack("e.1", Outcome.FAILED)
    keeper.move(store, pipe)

    assert told(keeper) == WorkerTotals()
