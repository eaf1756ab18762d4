"""Jobs that kill the whole worker, with all it runs: they are buried with their story, and nobody else ever is."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dispatcher.batches import Summary, submit_file
from dispatcher.errors import PoisonJob
from dispatcher.store.redis_client.connection import celery_url
from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster, MakeCluster
from workers.app import make_app


def were_beside(cluster: Cluster, job: str, worker: str) -> set[str]:
    """Jobs that were running on the worker when ``job`` began there for the last time, or began after it."""
    running: set[str] = set()
    began = False
    for entry in cluster.ledger.entries():
        if entry.worker != worker:
            continue
        if entry.job == job:
            began = True
        elif entry.what == "start":
            running.add(entry.job)
        elif not began:
            running.discard(entry.job)
    return running


def stories(cluster: Cluster) -> dict[str, list[dict[str, object]]]:
    """Task id → story, of all dead letters."""
    printed = json.loads(cluster.command("dead", "list", "--json"))
    return {letter["task_id"]: letter["story"] for letter in printed}


@pytest.mark.timeout(180)
def test_a_job_that_kills_its_worker_is_buried_and_what_ran_beside_it_is_not(make_cluster: MakeCluster) -> None:
    """SIGKILL of the worker from within, while it runs others: three workers die, the last with nothing beside the job; all others end."""
    cluster = make_cluster(lease_ttl_s=2.5, heartbeat_s=0.5, window_extra=0)
    cluster.start_dispatcher()
    workers = cluster.start_workers("w0", "w1", "w2", "w3", concurrency=3)
    beside = cluster.send("nap", 2.0, count=11)
    eventually(lambda: len(cluster.ledger.runs()) == 11, PATIENCE_S)
    [poison] = cluster.send("assassin")
    others = beside + cluster.send("nap", 0.1, count=40)

    with pytest.raises(PoisonJob, match=r"worker_died: .*3 times.*run 1 on .*run 2 on .*run 3 on .*alone"):
        cluster.result(poison).get(timeout=PATIENCE_S)
    cluster.all_succeed(others)
    assert cluster.ledger.runs()[poison] == 3
    assert [letter["reason"] for letter in cluster.dead_letters()] == ["worker_died"]
    assert sum(worker.exit_code is None for worker in workers) == 1
    story = stories(cluster)[poison]
    assert len({line["epoch"] for line in story}) == 3
    assert story[-1]["alone"] is True
    assert were_beside(cluster, poison, str(story[-1]["worker"])) == set()
    explained = json.loads(cluster.command("explain", poison, "--json"))
    assert (explained["place"], explained["story"]) == ("dead", story)


def deadly_batch(folder: Path, deadly: dict[int, str]) -> Path:
    """24 lines for the deadly model, in three chunks; what it dies of, by line."""
    path = folder / "batch.jsonl"
    path.write_text("".join(json.dumps({
        "custom_id": f"line-{n}", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "deadly", "input": deadly.get(n, f"text {n}")},
    }) + "\n" for n in range(24)))  # fmt: skip
    return path


def assert_only_these_failed(summary: Summary, codes: dict[int, str]) -> None:
    """Every line once: these with that code of an error, the others with their answer."""
    good = [json.loads(line) for line in summary.out.read_text().splitlines()]
    assert {one["custom_id"]: one["response"]["body"]["said"] for one in good} == {
        f"line-{n}": f"text {n}" for n in range(24) if n not in codes
    }
    assert summary.errors is not None
    bad = [json.loads(line) for line in summary.errors.read_text().splitlines()]
    assert {one["custom_id"]: (one["response"], one["error"]["code"]) for one in bad} == {
        f"line-{n}": (None, code) for n, code in codes.items()
    }
    assert len(good) + len(bad) == 24


def test_a_line_that_kills_its_process_fails_alone(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Of a batch of 24 lines in three chunks two kill the process that runs them: they get an error each, the others their answers."""
    cluster = make_cluster()
    settings = cluster.start_ready_made(WORKERS_CALLABLES="deadly=tests.deadly_model:answer")
    app = make_app(settings, celery_url(settings.redis_url))
    summary = submit_file(app, deadly_batch(tmp_path, {5: "die", 6: "die"}), tmp_path / "out.jsonl", settings=settings)

    assert_only_these_failed(summary, {5: "process_died", 6: "process_died"})
    assert cluster.dead_letters() == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_line_that_kills_its_worker_fails_alone(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Even the process that keeps it apart dies of it: its chunk is sent line by line, and the others of it get their answers."""
    cluster = make_cluster(lease_ttl_s=2.5, heartbeat_s=0.5)
    settings = cluster.start_ready_made(WORKERS_CALLABLES="deadly=tests.deadly_model:answer")
    app = make_app(settings, celery_url(settings.redis_url))
    over = threading.Event()

    def keep_a_worker() -> None:
        worker, lives = cluster.processes[-1], 1
        while not over.wait(0.2):
            if worker.exit_code is not None:
                lives += 1
                worker = cluster.start_ready_made_worker(f"w{lives}")

    keeper = threading.Thread(target=keep_a_worker)
    keeper.start()
    try:
        summary = submit_file(app, deadly_batch(tmp_path, {5: "kill"}), tmp_path / "out.jsonl", settings=settings)
    finally:
        over.set()
        keeper.join()
    assert_only_these_failed(summary, {5: "job_dead"})
    assert len(cluster.dead_letters()) == 2
    assert len(cluster.processes) > 4


@pytest.mark.long
@pytest.mark.timeout(600)
def test_innocents_that_share_workers_with_poison_again_and_again_are_never_buried(make_cluster: MakeCluster) -> None:
    """Four jobs that kill their worker, two that kill their process, among 300 others; what dies is started anew."""
    cluster = make_cluster(lease_ttl_s=2.5, heartbeat_s=0.5)
    cluster.start_dispatcher()
    workers = cluster.start_workers("w0", "w1", "w2", concurrency=3)
    poison, others = [], []
    for number in range(6):
        others += cluster.send("nap", 0.2, count=50)
        poison += cluster.send("assassin" if number % 3 else "poison")
    started = len(workers)

    def over() -> bool:
        nonlocal started
        for at, worker in enumerate(workers):
            if worker.exit_code is not None:
                workers[at] = cluster.start_worker(f"w{started}", concurrency=3, ready=False)
                started += 1
        return cluster.states(poison) == {"FAILURE": len(poison)} and cluster.states(others) == {"SUCCESS": len(others)}

    eventually(over, 400, cluster.processes[0].tail)
    assert {letter["reason"] for letter in cluster.dead_letters()} == {"worker_died", "process_died"}
    told = stories(cluster)
    assert told.keys() == set(poison)
    # A worker that a neighbour kills may have taken a job and not begun it: that is a line of the story, and no run.
    runs = cluster.ledger.runs()
    assert all(runs[job] <= len(told[job]) and 3 <= len(told[job]) <= 5 for job in poison), (runs, told)
    assert all(told[job][-1]["alone"] and runs[job] for job in poison), (runs, told)
