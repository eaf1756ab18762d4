"""register_worker: a worker life begins."""

from __future__ import annotations

from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.lua.cell import Cell, nothing_written


def test_a_life_is_announced_with_all_it_says_of_itself(cell: Cell) -> None:
    """Its queues and models are known from then on, and the dispatcher wakes."""
    worker = cell.worker(
        name="gpu1@h", weight=4.0, models=("minilm", "ü"), labels={"region": "eu"}, ingress=("gpu", "a b"), tasks=("t",),
        at_most_once=("t.pay",),
    )  # fmt: skip

    said = cell.store.registrations([worker.epoch])[worker.epoch]
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
    one, two = cell.worker(name="gpu1@h"), cell.worker("bbbbbbbbbbbb", name="gpu1@h")

    assert cell.text.smembers(cell.keys.workers) == {one.epoch, two.epoch}
    assert one.heartbeat({}).status == two.heartbeat({}).status == 1


def test_a_worker_without_models_names_none(cell: Cell) -> None:
    """Queues and models stand in one row of arguments: the count keeps them apart."""
    cell.worker(models=(), ingress=("dispatch",))

    assert cell.store.models() == set()
    assert cell.store.ingress_queues() == {"dispatch"}
