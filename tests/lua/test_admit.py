"""admit: messages of an ingress become waiting jobs, scheduled ones, or dead letters."""

from __future__ import annotations

import json

import pytest
import redis

from dispatcher.core.admission.rules import Admitted, Refused
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.errors import NotLeader
from dispatcher.store.frame import parse_entry
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList
from tests.lua.cell import BYTES_MAX, DISPATCH, LANE, Cell, nothing_written
from tests.messages import TASK, envelope, message


def test_messages_wait_in_their_lane_in_the_order_they_came(cell: Cell) -> None:
    """The ingress is empty, each message is kept byte for byte, and who came first is next."""
    sent = [message(f"id-{i}", args=("ü\x00",)) for i in range(3)]
    cell.push(*sent)

    assert cell.admit() == 3

    entries = cell.waiting()
    assert [cell.messages()[entry.job] for entry in entries] == sent
    assert len(cell.messages()) == 3
    assert cell.ingress() == []
    assert cell.text.smembers(cell.keys.lanes) == {LANE}
    assert [entry.cost_ms for entry in entries] == [1000] * 3
    assert {(entry.crashes, entry.rejects, entry.reaps, entry.recalls) for entry in entries} == {(0, 0, 0, 0)}


def test_the_reply_names_the_first_job(cell: Cell) -> None:
    """The others' numbers follow on it, so that a task id can be told from a number afterwards."""
    cell.push(*[message(f"id-{i}") for i in range(3)])
    batch = AdmitBatch(DISPATCH, cell.ingress(), cell.decide(cell.ingress()))

    (first,) = cell.store.apply([batch], tuple, promote=0).first_jobs

    assert [int(entry.job) for entry in cell.waiting()] == [first, first + 1, first + 2]


def test_the_time_of_admission_is_redis_own(cell: Cell) -> None:
    """And it is the same for all of a call."""
    seconds, micros = cell.text.time()
    cell.jobs(3)
    later_s, later_micros = cell.text.time()

    (admitted_ms,) = {entry.admitted_ms for entry in cell.waiting()}
    assert seconds * 1000 + micros // 1000 <= admitted_ms <= later_s * 1000 + later_micros // 1000


def test_not_the_leader(cell: Cell) -> None:
    """REFUSED: who does not lead moves nothing."""
    cell.push(message(), message())

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.admit(store=cell.impostor())


def test_the_old_leader_of_two(cell: Cell) -> None:
    """REFUSED: its plan comes late, a new leader was elected in between."""
    old = cell.store
    cell.push(message())
    cell.leader("leader-2")

    with nothing_written(cell), pytest.raises(NotLeader):
        cell.admit(store=old)


def test_a_requeue_at_the_head_between_read_and_admit(cell: Cell) -> None:
    """Nothing is taken for something else: the plan was for another message, so nothing moves, and the next look sees it."""
    planned = [message(), message()]
    cell.push(*planned)
    requeued = message()
    cell.client.rpush("dispatch", requeued)

    with nothing_written(cell):
        assert cell.admit(planned) == 0
    assert cell.admit() == 3
    assert cell.messages()[cell.waiting()[0].job] == requeued


def test_it_stops_at_the_first_that_is_not_planned_for(cell: Cell) -> None:
    """What matched before it is moved; it, and what stands behind it, stays."""
    planned = [message("a"), message("b"), message("c")]
    other = message("x")
    cell.push(planned[0], other, planned[1], planned[2])

    assert cell.admit(planned) == 1
    assert cell.ingress() == [other, *planned[1:]]
    assert list(cell.messages().values()) == planned[:1]


def test_a_competing_consumer_took_the_next_one(cell: Cell) -> None:
    """A stock worker on the same queue popped it: it must not be run here as well."""
    planned = [message("a"), message("b")]
    cell.push(*planned)
    cell.client.rpop("dispatch")

    with nothing_written(cell):
        assert cell.admit(planned) == 0


def test_fewer_messages_than_planned(cell: Cell) -> None:
    """What is gone is gone; what is there and matches is moved."""
    planned = [message("a"), message("b")]
    cell.push(planned[0])

    assert cell.admit(planned) == 1
    assert cell.ingress() == []


def test_new_arrivals_behind_do_not_matter(cell: Cell) -> None:
    """Producers push all the time."""
    planned = [message("a")]
    cell.push(*planned, message("b"))

    assert cell.admit(planned) == 1
    assert len(cell.ingress()) == 1


def test_9000_messages(cell: Cell) -> None:
    """More than Lua can unpack: 500 a call, none lost, none twice, order kept."""
    sent = [message(f"id-{i}") for i in range(9_000)]
    for at in range(0, 9_000, 1_000):
        cell.client.lpush("dispatch", *sent[at : at + 1_000])

    calls = 0
    while cell.client.llen("dispatch"):
        look = cell.store.look([DISPATCH], limit=500, message_bytes_max=BYTES_MAX)
        assert cell.admit(look.messages[0]) == 500
        calls += 1

    assert calls == 18
    kept = cell.messages()
    assert [kept[entry.job] for entry in cell.waiting()] == sent


def test_500_lanes_at_once(cell: Cell) -> None:
    """The largest call there is: each message in a lane of its own."""
    sent = [message(task=f"task-{i}") for i in range(500)]
    cell.push(*sent)

    assert cell.admit() == 500
    assert cell.text.scard(cell.keys.lanes) == 500
    assert len(cell.whereabouts()) == 500


def test_the_same_message_twice_is_two_jobs(cell: Cell) -> None:
    """A producer's push was retried: one delivery tag, two messages. Which of them is one too many, nobody can know."""
    twice = message("id")
    cell.push(twice, twice)

    assert cell.admit() == 2
    assert list(cell.messages().values()) == [twice, twice]
    assert len({entry.job for entry in cell.waiting()}) == 2


def test_binary_garbage_is_a_dead_letter_byte_for_byte(cell: Cell) -> None:
    """With its reason, and the good message behind it goes on in the same call."""
    garbage = bytes(range(256)) * 3
    cell.push(garbage, b"", b"\x00", message("good"))

    assert cell.admit() == 4

    buried = cell.text.zrange(cell.keys.dead_letters, 0, -1)
    assert sorted(cell.messages()[job] for job in buried) == sorted([garbage, b"", b"\x00"])
    reasons = [json.loads(reason) for reason in cell.text.hvals(cell.keys.dead_reasons)]
    assert [reason["reason"] for reason in reasons] == ["not_json"] * 3
    assert {reason["ingress"] for reason in reasons} == {"dispatch"}
    assert cell.text.scard(cell.keys.unsettled) == 0
    assert len(cell.waiting()) == 1


def test_a_dead_letter_with_an_id_is_marked_unsettled(cell: Cell) -> None:
    """In the same script, so that no crash lies between the burial and the promise to tell who waits for it."""
    cell.push(message("known-id", eta="tomorrow"))
    cell.admit()

    (job,) = cell.text.smembers(cell.keys.unsettled)
    reason = json.loads(cell.text.hget(cell.keys.dead_reasons, job))
    assert (reason["reason"], reason["task_id"], reason["task"]) == ("bad_eta", "known-id", TASK)


def test_a_future_job_is_scheduled(cell: Cell) -> None:
    """Under its due time, with the lane it will wait in; nothing waits yet."""
    cell.push(message(eta="2999-01-01T00:00:00"))
    cell.admit()

    ((entry, due_ms),) = cell.text.zrange(cell.keys.scheduled, 0, -1, withscores=True)
    assert due_ms == 32472144000000
    assert entry.endswith(LANE)
    assert entry[:16] in cell.messages()
    assert cell.text.scard(cell.keys.lanes) == 0


@pytest.mark.parametrize("size", [BYTES_MAX + 1, 5])
def test_a_message_that_was_not_read(cell: Cell, size: int) -> None:
    """Too large, or beginning as the mark for that does: its size is what is compared, and the whole of it is kept."""
    unread = b"!" + b"x" * (size - 1)
    cell.push(unread, message())
    admitted = 0
    for _ in range(2):  # a look ends after so many bytes
        if messages := cell.store.look([DISPATCH], limit=10, message_bytes_max=BYTES_MAX).messages.get(0):
            admitted += cell.admit(messages)

    assert admitted == 2
    (job,) = cell.text.zrange(cell.keys.dead_letters, 0, -1)
    assert cell.messages()[job] == unread


@pytest.mark.parametrize("forged", [b"!", b"!abc", b"!!", b"!99999999", b"!!99999999", b"!\xff"])
def test_a_forged_mark_does_not_stop_the_ingress(cell: Cell, forged: bytes) -> None:
    """A message that looks like our own note about a large one is a dead letter like any other."""
    cell.push(forged, message())
    messages = cell.store.look([DISPATCH], limit=10, message_bytes_max=BYTES_MAX).messages[0]

    assert cell.admit(messages) == 2


def test_a_message_whose_tag_is_not_at_its_end_is_compared_whole(cell: Cell) -> None:
    """Two of the same length and end are not the same message."""
    made = envelope("id-1")
    made = {"properties": made.pop("properties"), **made}
    planned, other = json.dumps(made).encode(), json.dumps(made).replace("id-1", "id-2").encode()
    assert planned[-64:] == other[-64:]
    cell.push(other)

    with nothing_written(cell):
        assert cell.admit([planned]) == 0
    assert cell.admit([other]) == 1


def test_job_numbers_never_repeat(cell: Cell) -> None:
    """Not within a µs, not when the sequence runs ahead of the clock, and not when Redis lost its last writes."""
    cell.client.set(cell.keys.sequence, str(4 * 10**15))
    ahead = cell.jobs(3)
    cell.client.delete(cell.keys.sequence)
    after_loss = cell.jobs(500)

    assert ahead == [str(4 * 10**15 + i) for i in (1, 2, 3)]
    assert len(set(after_loss)) == 500
    assert {len(job) for job in ahead + after_loss} == {16}


def test_a_lane_of_the_wrong_type(cell: Cell) -> None:
    """It is moved aside as it is, or no job of any lane would be admitted any more; the caller is told."""
    bad = lane_name(Lane("dispatch", "bad.task", "default", 0, 10))
    cell.client.set(cell.keys.lane(bad), "not a list")
    cell.push(message(), message(eta="2999-01-01T00:00:00"), b"garbage", message(task="bad.task"))
    planned = cell.ingress()
    applied = cell.store.apply([AdmitBatch(DISPATCH, planned, cell.decide(planned))], tuple, promote=0)

    assert applied.admitted == [4]
    assert applied.aside == [cell.keys.lane(bad).encode()]
    assert len(cell.waiting(bad)) == 1
    assert cell.text.get(cell.keys.lane(bad) + ":aside") == "not a list"


def test_an_ingress_of_the_wrong_type(cell: Cell) -> None:
    """REFUSED: it is somebody else's key."""
    cell.client.set("dispatch", "a string")

    with nothing_written(cell), pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cell.admit([message()])


def test_a_full_redis(cell: Cell) -> None:
    """REFUSED: `noeviction` refuses the first write, so nothing is half done."""
    cell.push(message(), b"garbage")
    cell.client.config_set("maxmemory", "1")
    try:
        with nothing_written(cell), pytest.raises(redis.ResponseError, match="maxmemory"):
            cell.admit()
    finally:
        cell.client.config_set("maxmemory", "0")
    assert cell.admit() == 2


def test_priority_lists_are_named_in_the_reason(cell: Cell) -> None:
    """A dead letter of a priority list can be sent back to that list."""
    source = IngressList("dispatch\x06\x163", "dispatch", 3)
    cell.push(b"garbage", queue=source.key)
    cell.admit(source=source)

    (reason,) = cell.text.hvals(cell.keys.dead_reasons)
    assert (json.loads(reason)["ingress"], json.loads(reason)["step"]) == ("dispatch", 3)


def test_decisions_travel_as_they_were_made(cell: Cell) -> None:
    """Cost, due time and deadline of the largest size fit their places."""
    raw = message()
    cell.push(raw, raw, raw, raw)
    decisions: list[Admitted | Refused] = [
        Admitted(LANE, 999_999_999),
        Admitted(LANE, 1, deadline_ms=1_700_000_000_123),
        Admitted(LANE, 0, 253_402_300_799_999, deadline_ms=9_999_999_999_999),
        Refused("any", 'with "quotes" and ü\n', None),
    ]
    cell.store.apply([AdmitBatch(DISPATCH, [raw] * 4, decisions)], tuple, promote=0)

    assert [(entry.cost_ms, entry.deadline_ms, entry.deaths + entry.rejects) for entry in cell.waiting()] == [
        (999_999_999, 0, 0),
        (1, 1_700_000_000_123, 0),
    ]
    ((later, due_ms),) = cell.text.zrange(cell.keys.scheduled, 0, -1, withscores=True)
    assert due_ms == 253_402_300_799_999
    assert (parse_entry(later).deadline_ms, parse_entry(later).lane) == (9_999_999_999_999, LANE)
    assert json.loads(cell.text.hvals(cell.keys.dead_reasons)[0])["detail"] == 'with "quotes" and ü\n'
