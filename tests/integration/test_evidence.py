"""What workers did, as it crosses Redis: told with beats, learned by the leader, used for the next jobs, kept for a successor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dispatcher.core.choosing.recorded import Recorder
from dispatcher.core.facts.evidence import KindTotals, WorkerTotals
from dispatcher.core.facts.header import job_headers
from dispatcher.core.facts.lane import parse_lane, size_class
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.leader.dispatcher import Dispatcher
from dispatcher.recording import open_recording, replay
from tests.eventually import eventually
from tests.integration.stage import Stage, Stub
from tests.messages import TASK
from tests.worker_harness import Cell, open_cell


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    opened = Stage(redis_url, heartbeat_s=0.001)
    yield opened
    opened.close()


def tell(stub: Stub, done: int, each_ms: int) -> None:
    """Jobs of 1 s, as the producer did not say."""
    busy_ms, cost_ms = done * each_ms, done * 1_000
    kind = KindTotals(TASK, "default", done, 0, 0, busy_ms, cost_ms, done, busy_ms, cost_ms)
    stub.store.heartbeat({"done": done}, msgspec.json.encode(WorkerTotals([kind])))


def views(dispatcher: Dispatcher, stage: Stage) -> dict[str, WorkerView]:
    """What the dispatcher would plan with now."""
    look = dispatcher.parts.store.look([], limit=1, message_bytes_max=1)
    return {view.name: view for view in dispatcher.parts.workers.views(look)}


def test_what_was_learned_is_used_and_survives_a_takeover(stage: Stage) -> None:
    """The second of two dispatchers on one Redis plans with the speeds and admits with the costs that the first has measured."""
    fast, slow = stage.worker("fast"), stage.worker("slow")
    tell(fast, 1_000, 50)
    tell(slow, 1_000, 200)
    stage.step()
    known = views(stage.dispatcher, stage)
    assert known["fast@h"].speed("default") / known["slow@h"].speed("default") == pytest.approx(4, rel=0.05)
    assert known["fast@h"].speed("other") == 1.0

    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.send(1)
    stage.steps()

    assert views(stage.dispatcher, stage)["fast@h"].speeds == pytest.approx(known["fast@h"].speeds, rel=0.01)
    (entry,) = [entry for stub in (fast, slow) for entry in stub.leases().values()]
    assert entry.cost_ms == 100  # 50 ms at twice the mean speed of the fleet, 200 ms at half of it
    assert fast.leases() != {}


def test_a_declared_cost_is_not_replaced(stage: Stage) -> None:
    """What the producer says of a job counts, whatever others of its kind took."""
    worker = stage.worker()
    tell(worker, 1_000, 50)
    stage.step()
    stage.send(1, headers=job_headers(cost=7.5))
    stage.steps()

    assert [entry.cost_ms for entry in worker.leases().values()] == [7_500]


@pytest.mark.parametrize(("setting", "speed", "cost_ms"), [("measure_speed", 1.0, 100), ("learn_costs", 2.0, 1_000)])
def test_either_can_be_switched_off(redis_url: str, setting: str, speed: float, cost_ms: int) -> None:
    """Weights and the default cost are what counts then."""
    stage = Stage(redis_url, heartbeat_s=0.001, **{setting: False})
    fast, slow = stage.worker("fast"), stage.worker("slow")
    tell(fast, 1_000, 50)
    tell(slow, 1_000, 200)
    stage.step()
    stage.send(1)
    stage.steps()

    assert views(stage.dispatcher, stage)["fast@h"].speed("default") == pytest.approx(speed, rel=0.05)
    assert [entry.cost_ms for stub in (fast, slow) for entry in stub.leases().values()] == [cost_ms]
    stage.close()


@pytest.fixture
def cell(redis_url: str, tmp_path: Path) -> Iterator[Cell]:
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_real_workers_tell_what_they_did(cell: Cell, pool: str) -> None:
    """By task, with failures and retries, and apart for jobs whose producer said a cost; and the leader learns from it."""

    def kinds() -> dict[str, KindTotals]:
        told = cell.client.hget(cell.keys.totals, cell.epoch_of("inner@test"))
        return {kind.task: kind for kind in msgspec.json.decode(told or "{}", type=WorkerTotals).kinds}

    with cell.in_process(pool=pool):
        cell.send("work", 0.05, count=6)
        cell.send("work", 0.05, count=2, headers=job_headers(cost=0.05))
        cell.send("fail", count=2)
        cell.send("retry")
        eventually(lambda: sum(kind.done + kind.failed for kind in kinds().values()) == 11, message=kinds)
        told = kinds()
        work = told["work"]
        assert (work.done, work.guessed, work.cost_ms - work.guessed_cost_ms) == (8, 6, 100)
        assert work.busy_ms >= 8 * 45
        assert (told["fail"].failed, told["fail"].busy_ms, told["retry"].done, told["retry"].retried) == (2, 0, 1, 1)
        assert 0 < eventually(lambda: _costs(cell).get(("work", "default"))) < 0.5
        cell.drain(cell.epoch_of("inner@test"), "keep")
        eventually(lambda: cell.client.hget(cell.keys.worker(cell.epoch_of("inner@test")), "draining") == "keep")
        cell.send("work")
        (lane,) = eventually(lambda: cell.client.smembers(cell.keys.lanes))
        assert parse_lane(lane).size_class < size_class(500)  # and not that of the default, 1 s


def _costs(cell: Cell) -> dict[tuple[str, str], float]:
    saved = cell.client.hget(cell.keys.policy, "costs")
    return {(task, model): cost_s for task, model, cost_s in msgspec.json.decode(saved or "[]")}


def test_what_a_dispatcher_decided_can_be_decided_again(redis_url: str, tmp_path: Path) -> None:
    """From a recording of a live one: its plans, made again from their snapshots, are the same."""
    path = tmp_path / "plans"
    stage = Stage(redis_url)
    with open_recording(path, stage.settings) as file:
        stage.dispatcher = stage.make_dispatcher("leader-1", recorder=Recorder(file.write))
        workers = [stage.worker(f"w{at}", concurrency=at) for at in (1, 2, 3)]
        sent = stage.send(20) + stage.send(5, priority=9)
        ran: list[str] = []
        while len(ran) < len(sent):
            stage.steps()
            for stub in workers:
                ran += stub.run_all()
                stub.beat()
    found = replay(path)

    assert (found.same, found.first_other) == (found.plans, None)
    assert found.jobs == len(sent)
    stage.close()
