"""snapshot: everything a plan needs, at one instant."""

from __future__ import annotations

from dispatcher.core.facts.lane import parse_lane
from dispatcher.store.leader.look import WorkerRow
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.lua.cell import BYTES_MAX, LANE, Cell, nothing_written
from tests.messages import message


def look(cell: Cell) -> tuple[dict[str, int], dict[str, WorkerRow]]:
    look = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX)
    return {lane.name: lane.depth for lane in look.lanes}, {row.epoch: row for row in look.workers}


def test_an_empty_cell(cell: Cell) -> None:
    """Nothing waits, nobody works, nothing is due."""
    look = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX)

    assert (look.lanes, look.workers, look.paused, look.next_due_ms, look.messages) == ((), (), frozenset(), None, {})
    assert look.leads


def test_it_writes_nothing(cell: Cell) -> None:
    """However full the cell is."""
    worker = cell.worker()
    worker.take(cell.leased(worker, 3)[0])
    cell.jobs(3)
    cell.push(message(eta="2999-01-01T00:00:00"))
    cell.admit()

    with nothing_written(cell):
        look(cell)
        cell.impostor().look([], limit=1, message_bytes_max=BYTES_MAX)


def test_who_does_not_lead_is_told(cell: Cell) -> None:
    """It may look, and must not plan."""
    assert not cell.impostor().look([], limit=1, message_bytes_max=BYTES_MAX).leads


def test_a_lane_shows_its_depth_and_its_next_job(cell: Cell) -> None:
    """Cost and age are those of the job that is next."""
    first = cell.jobs(3)[0]
    (view,) = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX).lanes

    entry = cell.waiting()[0]
    assert entry.job == first
    assert (view.name, view.lane, view.depth) == (LANE, parse_lane(LANE), 3)
    assert (view.cost_ms, view.admitted_ms, view.deadline_ms) == (entry.cost_ms, entry.admitted_ms, 0)


def test_a_lane_shows_the_deadline_of_its_next_job(cell: Cell) -> None:
    """Whoever comes behind it."""
    cell.push(message(dispatch={"deadline_s": 40_000_000}), message(dispatch={"deadline_s": 50_000_000}))
    cell.admit()
    (view,) = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX).lanes

    assert (view.depth, view.deadline_ms) == (2, 40_000_000_000)  # this cell's admission believes that it is 1970


def test_a_worker_shows_what_it_owes(cell: Cell) -> None:
    """Load is its leases and their cost, whatever it says of itself; the rest is what its last beat said."""
    worker = cell.worker()
    cell.push(*[message(dispatch={"cost": cost}) for cost in (1.0, 1.5, 1.25)])
    cell.admit()
    for lane in cell.text.smembers(cell.keys.lanes):
        cell.give(worker, len(cell.waiting(lane)), lane=lane)
    worker.take(cell.pop(worker))
    worker.heartbeat({"done": 17, "consume_age_ms": 250, "loop_lag_ms": 3, "running": 99})
    worker.drain("keep")

    row = look(cell)[1][worker.epoch]

    assert (row.leases, row.leased_cost_ms, row.taken) == (3, 3750, 1)
    assert (row.done, row.consume_age_ms, row.loop_lag_ms, row.draining, row.ended) == (17, 250, 3, "keep", None)


def test_the_age_of_a_beat_is_what_has_gone_of_its_ttl(cell: Cell) -> None:
    """No client's clock is asked."""
    worker = cell.worker()
    cell.client.pexpire(cell.keys.alive(worker.epoch), ALIVE_TTL_MS - 4_000)
    assert 4_000 <= look(cell)[1][worker.epoch].beat_age_ms < 60_000
    worker.heartbeat({})
    assert 0 <= look(cell)[1][worker.epoch].beat_age_ms < 4_000


def test_a_worker_lives_on_when_redis_clock_is_set_back(cell: Cell) -> None:
    """Its last beat then seems to come from the future; it is no dead worker, whose jobs others get."""
    worker = cell.worker()
    cell.client.pexpire(cell.keys.alive(worker.epoch), ALIVE_TTL_MS + 4_000)
    row = look(cell)[1][worker.epoch]

    assert row.ended is None
    assert -4_000 <= row.beat_age_ms < 0


def test_an_ended_life_says_why(cell: Cell) -> None:
    """Until it is forgotten; and that it ended even where the reason is lost."""
    said, lost = cell.worker(), cell.worker("bbbbbbbbbbbb")
    said.goodbye()
    cell.client.delete(cell.keys.alive(lost.epoch))
    rows = look(cell)[1]

    assert (rows[said.epoch].ended, rows[lost.epoch].ended) == ("goodbye", "unknown")


def test_a_worker_without_a_single_fact(cell: Cell) -> None:
    """Its hash was lost: it is shown all the same, for it may have leases."""
    worker = cell.worker()
    cell.leased(worker, 1)
    cell.client.delete(cell.keys.worker(worker.epoch))

    assert look(cell)[1][worker.epoch].leases == 1


def test_what_is_due_next_and_what_is_paused(cell: Cell) -> None:
    """The earliest due time, in ms."""
    cell.push(message(eta="2999-01-01T00:00:01"), message(eta="2999-01-01T00:00:00"))
    cell.admit()
    cell.text.sadd(cell.keys.paused, "dispatch", "gpu")
    look = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX)

    assert look.next_due_ms == 32472144000000
    assert look.paused == {"dispatch", "gpu"}


def test_a_name_in_the_set_without_a_list(cell: Cell) -> None:
    """An empty lane is no lane."""
    cell.text.sadd(cell.keys.lanes, LANE)

    assert look(cell)[0] == {}


def test_9000_leases(cell: Cell) -> None:
    """They are summed, not unpacked."""
    worker = cell.worker()
    cell.jobs(9_000)
    cell.give(worker, 9_000)

    row = look(cell)[1][worker.epoch]
    assert (row.leases, row.leased_cost_ms) == (9_000, 9_000_000)


def test_leased_cost_is_added_up_by_lane_for_who_asks(cell: Cell) -> None:
    """Over all workers, running or not; caps are made of it, and without caps nobody pays for it."""
    one, other = cell.worker(), cell.worker("bbbbbbbbbbbb")
    one.take(cell.leased(one, 2)[0])
    cell.leased(other, 3)
    look = cell.store.look([], limit=1, message_bytes_max=BYTES_MAX, by_lane=True)

    assert look.leased_ms == {LANE: sum(row.leased_cost_ms for row in look.workers)}
    assert look.leased_ms[LANE] > 0
    assert cell.store.look([], limit=1, message_bytes_max=BYTES_MAX).leased_ms == {}
