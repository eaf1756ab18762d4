"""register_worker: a worker life begins."""

from __future__ import annotations

import pytest

from dispatcher.errors import FormatMismatch
from dispatcher.store.formats import Formats
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, WorkerStore, new_epoch
from tests.lua.cell import Cell, nothing_written


def test_a_life_is_announced_with_all_it_says_of_itself(cell: Cell) -> None:
    """Its queues and models are known from then on, and the dispatcher wakes."""
    worker = cell.worker(
        name="gpu1@h", weight=4.0, models=("minilm", "ü"), labels={"region": "eu"}, ingress=("gpu", "a b"), tasks=("t",),
        at_most_once=("t.pay",),
    )  # fmt: skip

    said = cell.store.registrations().learn([worker.epoch]).new[worker.epoch]
    assert said == Registration(
        name="gpu1@h", host="h", pid=1, concurrency=1, weight=4.0, models=("minilm", "ü"), labels={"region": "eu"},
        ingress=("gpu", "a b"), tasks=("t",), at_most_once=("t.pay",),
    )  # fmt: skip
    assert cell.text.smembers(cell.keys.workers) == {worker.epoch}
    assert cell.store.ingress_queues() == {"gpu", "a b"}
    assert cell.store.models() == {"minilm", "ü"}
    assert 0 < cell.text.pttl(cell.keys.alive(worker.epoch)) <= ALIVE_TTL_MS
    assert cell.woken()


def test_a_life_begins_once(cell: Cell) -> None:
    """REFUSED: the epoch is in use, by whomever."""
    worker = cell.worker()

    with nothing_written(cell):
        assert not worker.register(Registration("other@h", "h", 2, 8, models=("m",), ingress=("q",)))


def test_an_ended_life_cannot_begin_again(cell: Cell) -> None:
    """REFUSED: a worker that was declared dead gets a new epoch, not its old one."""
    worker = cell.worker()
    worker.goodbye()

    with nothing_written(cell):
        assert not worker.register(Registration("again@h", "h", 1, 1))


def test_two_workers_of_one_name_are_two_lives(cell: Cell) -> None:
    """Neither ends the other (scenario 12)."""
    first, second = cell.worker(name="gpu1@h"), cell.worker("bbbbbbbbbbbb", name="gpu1@h")

    assert cell.text.smembers(cell.keys.workers) == {first.epoch, second.epoch}
    assert first.heartbeat({}).status == second.heartbeat({}).status == 1


def test_a_worker_without_models_names_none(cell: Cell) -> None:
    """Queues and models stand in one row of arguments: the count keeps them apart."""
    cell.worker(models=(), ingress=("dispatch",))

    assert cell.store.models() == set()
    assert cell.store.ingress_queues() == {"dispatch"}


# -- formats


def register(cell: Cell, oldest: int, newest: int) -> int:
    """A new worker registers that reads these formats."""
    registration = Registration("new@h", "h", 1, 1, formats=Formats(oldest, newest))
    return WorkerStore(cell.text, cell.keys, new_epoch()).register(registration)


def leads(cell: Cell, oldest: int, newest: int) -> None:
    """Another dispatcher leads, which reads these formats."""
    cell.client.delete(cell.keys.leader)
    store = DispatchStore(cell.client, cell.keys, "other")
    assert store.elect(ttl_ms=60_000, info={"host": "node7"}, formats=Formats(oldest, newest))


@pytest.mark.parametrize(("leader", "worker"), [((1, 1), (2, 2)), ((2, 3), (1, 1))])
def test_a_worker_that_shares_no_format_with_the_leader_is_refused(
    cell: Cell, leader: tuple[int, int], worker: tuple[int, int]
) -> None:
    """REFUSED, with a sentence that names both."""
    leads(cell, *leader)

    with nothing_written(cell), pytest.raises(FormatMismatch, match=r"worker new@h reads .*the leading dispatcher on node7 reads"):
        register(cell, *worker)


def test_an_old_leader_says_nothing_of_formats_and_reads_the_first(cell: Cell) -> None:
    """0.1.0 writes no such field into the record of the leader."""
    cell.client.hdel(cell.keys.leader_info, "formats")

    assert register(cell, 1, 2)
    with nothing_written(cell), pytest.raises(FormatMismatch):
        register(cell, 2, 2)


def test_a_leader_that_has_gone_keeps_nobody_out(cell: Cell) -> None:
    """Its record outlives it; its successor asks the workers."""
    cell.client.delete(cell.keys.leader)

    assert register(cell, 2, 2)


@pytest.mark.parametrize("worker", [(1, 1), (2, 2), (3, 3)])
def test_a_worker_that_cannot_read_all_that_is_stored_is_refused(cell: Cell, worker: tuple[int, int]) -> None:
    """REFUSED, whoever leads: Redis has jobs in both formats."""
    cell.jobs(1)
    cell.store.formats().raise_to(2, [])
    cell.client.delete(cell.keys.leader)

    with nothing_written(cell), pytest.raises(FormatMismatch, match="Redis holds formats 1 to 2"):
        register(cell, *worker)
    assert register(cell, 1, 2)


def test_a_record_of_the_leader_that_cannot_be_read_counts_as_unsaid(cell: Cell) -> None:
    """A key of another type stops no worker."""
    cell.client.delete(cell.keys.leader_info)
    cell.client.set(cell.keys.leader_info, "spoilt")

    assert register(cell, 1, 1)
    with nothing_written(cell), pytest.raises(FormatMismatch, match="another host"):
        register(cell, 2, 2)
