"""docker-compose.yml on a real engine: up, a batch, a worker container killed, every line once, Flower's view, down."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "dispatcher-test"
LINES = 1500
OFFLINE_S = 15.0
"""The promise: a killed worker is shown offline this soon."""

pytestmark = [pytest.mark.compose, pytest.mark.timeout(600)]


def _why_no_engine() -> str | None:
    if shutil.which("docker") is None:
        return "there is no docker command"
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    if asked.returncode:
        return f"no Docker engine answers: {asked.stderr.strip().splitlines()[-1:]}"
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return "this docker command has no `compose`"
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """The Compose project, under a name and on ports of its own."""

    def __init__(self) -> None:
        redis_port, flower_port = _free_port(), _free_port()
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.flower_url = f"http://127.0.0.1:{flower_port}"
        self.environ = {
            **os.environ, "DISPATCHER_REDIS_PORT": str(redis_port), "DISPATCHER_FLOWER_PORT": str(flower_port),
            "DISPATCHER_REDIS_URL": self.redis_url, "DISPATCHER_CHUNK_LINES_MAX": "1",
        }  # fmt: skip

    def compose(self, *arguments: str, timeout_s: float = 60.0) -> str:
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr[-3000:]}\n{ended.stdout[-1000:]}"
        return ended.stdout

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "dispatcher", "status", "--json"]
        found: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT, env=self.environ, timeout=30))
        return found

    def flower(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self.flower_url + path, timeout=10) as reply:
                return str(reply.read().decode())
        except OSError as exc:
            raise AssertionError(f"Flower does not answer {path}: {exc}") from exc

    def online(self) -> dict[str, bool]:
        return {row["hostname"]: row["status"] for row in json.loads(self.flower("/workers?json=1"))["data"]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := _why_no_engine():
        pytest.skip(reason)
    cluster = Cluster()
    try:
        cluster.compose("up", "--build", "--detach", "--wait", "--wait-timeout", "240", timeout_s=540)
        yield cluster
    except BaseException:
        print(subprocess.run(
            ["docker", "compose", "--project-name", PROJECT, "logs", "--tail", "40"],
            cwd=ROOT, env=cluster.environ, capture_output=True, text=True, check=False,
        ).stdout)  # fmt: skip
        raise
    finally:
        cluster.compose("down", "--volumes", "--timeout", "5", timeout_s=120)


def test_nobody_is_root_and_every_part_is_healthy(cluster: Cluster) -> None:
    """Every container is healthy, and ours run as a plain user; Redis drops root by itself."""
    told = cluster.compose("ps", "--format", "json")
    parts = json.loads(told if told.startswith("[") else f"[{','.join(told.splitlines())}]")  # Compose before 2.21: one array

    assert {part["Service"]: part["Health"] for part in parts} == dict.fromkeys(
        ("redis", "dispatcher", "worker-big", "worker-small", "autoscaler", "flower"), "healthy"
    )
    for part in parts:
        if part["Service"] != "redis":
            assert int(cluster.compose("exec", "-T", part["Service"], "id", "-u")) > 0
    assert {port["URL"] for part in parts for port in part["Publishers"] or () if port["PublishedPort"]} == {"127.0.0.1"}


def test_flower_shows_and_does_not_steer(cluster: Cluster) -> None:
    """It has no login and listens beyond loopback: whoever reaches it can stop no worker by it."""
    (name, *_) = cluster.online()
    order = urllib.request.Request(f"{cluster.flower_url}/api/worker/shutdown/{name}", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(order, timeout=10)


def test_every_line_comes_out_once_though_a_worker_container_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """SIGKILL to the stronger worker in the middle of a batch: each custom_id is there once, none failed."""
    batch, out = tmp_path / "batch.jsonl", tmp_path / "results.jsonl"
    ids = [f"line-{number}" for number in range(LINES)]
    batch.write_text("".join(
        json.dumps({"custom_id": one, "method": "POST", "url": "/v1/embeddings", "body": {"model": "hash-384", "input": f"text {one}"}})
        + "\n" for one in ids
    ))  # fmt: skip
    (big,) = [worker for worker in cluster.status()["workers"] if worker["name"].startswith("big@")]
    submit = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "submit", str(batch), "--out", str(out)], cwd=ROOT, env=cluster.environ
    )
    try:
        eventually(lambda: out.exists() and LINES // 20 < len(out.read_bytes().splitlines()) < LINES, 60)
        cluster.compose("kill", "worker-big")
        eventually(lambda: cluster.online().get(big["name"]) is False, OFFLINE_S, cluster.online)
        assert submit.wait(120) == 0
    finally:
        submit.kill()
        submit.wait()

    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(result["custom_id"] for result in results) == Counter(ids)
    assert {result["response"]["status_code"] for result in results} == {200}
    status = cluster.status()
    assert big["epoch"] not in {worker["epoch"] for worker in status["workers"] if worker["state"] not in ("left", "dead")}
    assert (status["ingress"], status["scheduled"], status["dead"], status["lanes"]) == (0, 0, 0, [])


def test_a_killed_worker_comes_back_as_a_new_one(cluster: Cluster) -> None:
    """`up` again starts what is missing; Flower shows it online, and names its queue beside the ingress."""
    cluster.compose("up", "--no-build", "--detach", "--wait", "--wait-timeout", "120", timeout_s=180)

    expected = {"dispatcher", "big", "small"}
    eventually(lambda: {name.partition("@")[0] for name, up in cluster.online().items() if up} == expected, 30)
    live = [worker["epoch"] for worker in cluster.status()["workers"] if worker["state"] == "ready"]
    names = {"dispatch", *(f"dispatch:wq:{epoch}" for epoch in live)}
    eventually(lambda: names <= set(re.findall(r"[\w:]+", cluster.flower("/broker"))), 20)
