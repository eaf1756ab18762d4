"""Lines of a batch that go wrong, on real workers: each fails alone, and its neighbours in the chunk have their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.batches import submit_file
from dispatcher.store.redis_client.connection import celery_url
from tests.process.cluster import Cluster, MakeCluster
from workers.app import make_app

LINES = 16


def submitted(cluster: Cluster, folder: Path, inputs: dict[int, Any], *options: str) -> dict[str, Any]:
    """What the file of errors says, by line, of a batch for the deadly model with these inputs; all others succeeded."""
    settings = cluster.start_ready_made(*options, WORKERS_CALLABLES="deadly=tests.deadly_model:answer")
    batch, out = folder / "batch.jsonl", folder / "out.jsonl"
    batch.write_text("".join(json.dumps({
        "custom_id": f"line-{n}", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "deadly", "input": inputs.get(n, f"text {n}")},
    }) + "\n" for n in range(LINES)))  # fmt: skip

    summary = submit_file(make_app(settings, celery_url(settings.redis_url)), batch, out, settings=settings)

    good = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["custom_id"]: line["response"]["body"]["said"] for line in good} == {
        f"line-{n}": f"text {n}" for n in range(LINES) if n not in inputs
    }
    assert summary.errors is not None
    bad = [json.loads(line) for line in summary.errors.read_text().splitlines()]
    assert {line["custom_id"] for line in bad} == {f"line-{n}" for n in inputs}
    assert len(bad) == len(inputs)
    return {line["custom_id"]: line["error"] or line["response"]["body"]["error"]["message"] for line in bad}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_an_odd_answer_or_error_fails_its_line_alone(make_cluster: MakeCluster, tmp_path: Path, pool: str) -> None:
    """It says what came, in every pool; nothing died, and nothing is a dead letter."""
    cluster = make_cluster()
    inputs = ["none", "number", "half", "nan", "bytes", "sys.exit", "cancel", "fail"]

    said = submitted(cluster, tmp_path, dict(enumerate(inputs, 3)), "-P", pool)

    assert list(dict(sorted(said.items(), key=lambda item: int(item[0].removeprefix("line-")))).values()) == [
        "the model gave None, not a response body: write an object",
        "the model gave a float, not a response body: write an object",
        "the model gave half a surrogate pair at said, for which JSON has no form: convert it",
        "the model gave the float nan at said[1], for which JSON has no form: convert it",
        "the model gave a bytes at said, for which JSON has no form: convert it",
        "SystemExit: 3",
        "CancelledError",
        "ValueError: cannot read this",
    ]
    assert cluster.dead_letters() == []
    assert cluster.processes[-1].exit_code is None


@pytest.mark.parametrize("limit", ["--soft-time-limit", "--time-limit"])
def test_a_line_over_its_time_limit_fails_alone(make_cluster: MakeCluster, tmp_path: Path, limit: str) -> None:
    """Its chunk is sent line by line once the time of the whole is over."""
    cluster = make_cluster()

    said = submitted(cluster, tmp_path, {5: "slow"}, limit, "2")

    assert said["line-5"]["code"] == "request_timeout"
    assert cluster.dead_letters() == []


def test_a_line_that_no_worker_can_be_handed_fails_alone(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Its submitter does not send it, or the dispatcher refuses it for its size; the other lines of the chunk are sent by themselves."""
    cluster = make_cluster(message_bytes_max=3_000)

    said = submitted(cluster, tmp_path, {2: {"__type__": "Deadly", "__value__": ""}, 5: "x" * 1_800, 6: "fail"})

    assert {name: error["code"] if isinstance(error, dict) else error for name, error in said.items()} == {
        "line-2": "invalid_request", "line-5": "job_dead", "line-6": "ValueError: cannot read this",
    }  # fmt: skip
    assert said["line-5"]["message"].startswith("too_large: ")
    assert {letter["reason"] for letter in cluster.dead_letters()} == {"too_large"}
    assert cluster.processes[-1].exit_code is None
