"""Workers that hold several models in memory, with a limit: what they load, what they close, and what the cell knows of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.core.facts.evidence import WorkerTotals
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.worker.life import models
from tests.eventually import eventually
from tests.worker_harness import Cell, WorkerProcess, open_cell


@pytest.fixture
def cell(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    monkeypatch.setattr(models, "_resident", None)  # other tests of this process may have said something
    with open_cell(redis_url, tmp_path) as opened:
        yield opened


def registered(cell: Cell, worker: WorkerProcess) -> dict[str, Any]:
    """What the worker said of itself when its life began."""
    return cell.registrations()[cell.epoch_of(worker.name)]


def ask(cell: Cell, *names: str) -> list[int]:
    """One job after the other, each once the workers are idle again (a result is there before the ack is); the processes they ran in."""
    pids = []
    for model in names:
        pids.append(cell.send("ask", model, headers={"dispatch": {"model": model}})[0].get())
        eventually(cell.no_leases)
    return pids


def shown(cell: Cell) -> dict[str, Any]:
    """The only worker that lives, as ``status --json`` shows it."""
    workers = [one for one in AdminStore(cell.client, cell.keys).status()["workers"] if one["state"] not in ("left", "dead")]
    assert len(workers) == 1
    return workers[0]


def resident(cell: Cell, *names: str) -> bool:
    """Its models in memory; raises where they are others."""
    assert shown(cell)["resident"] == list(names)
    return True


def test_threads_share_models_up_to_the_limit(cell: Cell) -> None:
    """The second job of a model loads nothing; over the limit the one used longest ago is closed; ``status`` shows what is left."""
    with cell.in_process(models="a,b,c", models_max=2, concurrency=2):
        assert shown(cell)["resident"] is None, "nobody has said anything yet"
        ask(cell, "a", "a", "b", "a", "c")
        assert (cell.ledger.models("load"), cell.ledger.models("close")) == (["a", "b", "c"], ["b"])
        eventually(lambda: resident(cell, "a", "c"))
        assert shown(cell)["models_max"] == 2


def test_each_prefork_process_loads_its_own_copy(cell: Cell) -> None:
    """Within the limit, which is that of each; a process that dies takes its models with it, and the cell learns it."""
    cell.spawn(concurrency=1, options=("--models", "a,b,c", "--models-max", "1"))
    (first,) = set(ask(cell, "a", "a"))
    assert cell.ledger.models("load") == ["a"]
    eventually(lambda: resident(cell, "a"))
    assert set(ask(cell, "b", "b")) == {first}
    assert (cell.ledger.models("load"), cell.ledger.models("close")) == (["a", "b"], ["a"])
    eventually(lambda: resident(cell, "b"))
    os.kill(first, 9)
    eventually(lambda: resident(cell))
    assert ask(cell, "b") != [first]
    eventually(lambda: resident(cell, "b"))
    assert cell.ledger.models("load") == ["a", "b", "b"]


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_load_is_no_part_of_the_job_that_waits_for_it(cell: Cell, pool: str) -> None:
    """What the first jobs of a model cost is told without the second that it takes to load, nor is the worker told to be slow."""
    cell.spawn(pool=pool, concurrency=2, options=("--models", "heavy"))
    ask(cell, "heavy", "heavy", "heavy")

    def told() -> WorkerTotals:
        (text,) = cell.client.hvals(cell.keys.totals)
        totals = msgspec.json.decode(text, type=WorkerTotals)
        assert sum(kind.done for kind in totals.kinds) == 3
        return totals

    totals = eventually(told)
    assert totals.memory is not None
    count, load_ms = totals.memory.loads["heavy"]
    assert load_ms >= 1_000 * count
    assert totals.kinds[0].busy_ms < 1_000, "they do nothing but wait for their model"


def test_what_is_in_memory_is_told_again_when_redis_has_lost_it(cell: Cell) -> None:
    """A new life begins with what the process holds."""
    with cell.in_process(models="a", concurrency=1):
        ask(cell, "a")
        eventually(lambda: resident(cell, "a"))
        cell.client.flushdb()
        eventually(lambda: resident(cell, "a"))


def test_a_burst_for_a_cold_model_is_one_load(redis_url: str, tmp_path: Path) -> None:
    """Three jobs at once and two idle workers: the first has the model loaded, the others wait for that."""
    with open_cell(redis_url, tmp_path, dispatcher=False, model_load_s=("a=60",)) as cell:
        for name in ("w1", "w2"):
            cell.spawn(name, pool="threads", concurrency=1, options=("--models", "a", "--models-max", "1"), ready=False)
        for worker in cell.workers:
            cell.wait_registered(worker)
        jobs = cell.send("ask", "a", count=3, headers={"dispatch": {"model": "a"}})
        cell.start_dispatcher()
        assert len({job.get() for job in jobs}) == 1
        assert cell.ledger.models("load") == ["a"]


def test_a_warm_worker_gets_the_jobs_of_its_model(cell: Cell) -> None:
    """Of two idle workers that are alike, the one that holds the model, from the time on that a load was measured."""
    for name in ("w1", "w2"):
        cell.spawn(name, pool="threads", concurrency=1, options=("--models", "a,b", "--models-max", "1"), ready=False)
    for worker in cell.workers:
        cell.wait_registered(worker)
    workers = {worker.name: worker.pid for worker in cell.workers}
    (warm,) = ask(cell, "a")

    def learned() -> bool:
        return "a" in json.loads(cell.client.hget(cell.keys.policy, "residency") or "{}").get("measured_ms", {})

    eventually(learned, message=lambda: cell.client.hgetall(cell.keys.policy))
    assert ask(cell, *"aaaaaa") == [warm] * 6
    third = cell.spawn("w3", pool="threads", concurrency=1, options=("--models", "a,b", "--models-max", "1"))
    assert registered(cell, third)["resident"] == [], "it does not look warm before its first beat"
    workers[third.name] = third.pid
    assert ask(cell, *"aaaaaa") == [warm] * 6
    assert cell.ledger.models("load") == ["a"]
    admin = AdminStore(cell.client, cell.keys).status()["workers"]
    assert {workers[one["name"]]: one["resident"] for one in admin} == {pid: ["a"] if pid == warm else [] for pid in workers.values()}
