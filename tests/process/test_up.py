"""``dispatcher up``, ``submit``, ``drain`` and the autoscaler as a user runs them: real processes from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from dispatcher import job_headers
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import celery_url, connect
from tests.eventually import eventually

START_S = 90.0
MODEL = "hash-384"
FLEET = f"""
[[worker]]
name = "big"
weight = 2
concurrency = 2
models = ["{MODEL}"]
labels = {{ region = "eu" }}
[[worker]]
name = "small"
models = ["{MODEL}"]
[dispatcher]
lease_ttl_s = 2
heartbeat_s = 0.3
"""


class Home:
    """A user with a state folder of their own; knows every process that was started on their behalf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.mark = f"DISPATCHER_STATE_DIR={self.state}"
        self.environ = {**os.environ, "DISPATCHER_STATE_DIR": str(self.state)}

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dispatcher", *args], env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dispatcher", *args], env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def json(self, *args: str) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def workers(self) -> dict[str, dict[str, Any]]:
        """Workers that are not dead, by short name."""
        return {one["name"].partition("@")[0]: one for one in self.json("status")["workers"] if one["state"] not in ("left", "dead")}

    def processes(self) -> list[str]:
        """Command lines of all processes of this home that run, by what they inherited."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    @contextmanager
    def up(self, fleet: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """A cluster, and what its ready line says."""
        (self.folder / "fleet.toml").write_text(fleet)
        process = self.start("up", "--json", "--fleet", str(self.folder / "fleet.toml"), *options)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture
def home(tmp_path: Path, redis_executable: str) -> Iterator[Home]:
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")
    one = Home(tmp_path)
    yield one
    eventually(lambda: not one.processes(), 10, lambda: f"left over: {one.processes()}")


def batch(path: Path, lines: int) -> Path:
    """A batch file of that many lines."""
    with path.open("w") as file:
        for number in range(lines):
            body = {"model": MODEL, "input": f"paragraph {number} " * 20}
            file.write(json.dumps({"custom_id": f"n{number}", "method": "POST", "url": "/v1/embeddings", "body": body}) + "\n")
    return path


def custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def app_of(url: str) -> Celery:
    return Celery("test", broker=celery_url(url), backend=celery_url(url), set_as_current=False)


def test_a_cluster_from_ready_to_ctrl_c(home: Home) -> None:
    """The ready line is one JSON object; every worker it names is ready; other commands find the cluster; a worker that is killed is
    started again and loses no line of a batch; a drained one exits and stays away; Ctrl-C ends every process, with exit code 0.
    """
    with home.up(FLEET, "--no-flower") as (process, ready):
        assert ready["ready"] is True
        assert ready["flower_url"] is None
        assert set(ready) == {"ready", "redis_url", "flower_url", "workers"}
        assert [one["name"].partition("@")[0] for one in ready["workers"]] == ["big", "small"]
        before = home.workers()
        assert {name: (one["state"], one["weight"], one["concurrency"], one["pid"]) for name, one in before.items()} == {
            one["name"].partition("@")[0]: ("ready", one["weight"], one["concurrency"], one["pid"]) for one in ready["workers"]
        }
        assert before["big"]["labels"] == {"region": "eu"}
        assert home.json("status")["leader"]["pid"]

        again = home.run("up", "--no-flower")
        assert again.returncode == 2
        assert "already" in again.stderr

        out = home.folder / "out.jsonl"
        submit = home.start("submit", str(batch(home.folder / "in.jsonl", 3000)), "--out", str(out))
        eventually(lambda: out.exists() and out.stat().st_size > 0, 30)
        os.kill(before["small"]["pid"], signal.SIGKILL)
        said, shown = submit.communicate(timeout=60)
        assert submit.returncode == 0, shown
        assert "3000 lines" in said
        assert sorted(custom_ids(out)) == sorted(f"n{number}" for number in range(3000))
        eventually(
            lambda: (one := home.workers().get("small")) and one["state"] == "ready" and one["pid"] != before["small"]["pid"], 30
        )

        assert home.json("drain", "big")["draining"] == "exit"
        eventually(lambda: "big" not in home.workers(), 20)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)
        assert process.returncode == 0, shown
        assert "was killed by signal 9; starting it again" in shown
        assert "big" not in shown
    assert home.run("status").returncode == 2


def test_submit_is_interrupted_and_resumed(home: Home) -> None:
    """Ctrl-C: exit code 130 and no traceback. --resume finishes: each line once. Waiting jobs survive the cluster's own Ctrl-C."""
    out = home.folder / "out.jsonl"
    command = ("submit", str(batch(home.folder / "in.jsonl", 8000)), "--out", str(out))
    with home.up(FLEET, "--no-flower") as (_, ready):
        submit = home.start(*command)
        eventually(lambda: out.exists() and out.stat().st_size > 0, 30)
        submit.send_signal(signal.SIGSTOP)  # or it might be done before anything else has happened
        with connect(ready["redis_url"]) as client:
            client.sadd(Keys().paused, "*")
        submit.send_signal(signal.SIGINT)
        submit.send_signal(signal.SIGCONT)
        _, shown = submit.communicate(timeout=20)
        assert submit.returncode == 130, shown
        assert "--resume finishes it" in shown
        assert "Traceback" not in shown
        assert len(custom_ids(out)) < 8000
        refused = home.run(*command)
        assert refused.returncode == 2, refused.stderr
    with home.up(FLEET, "--no-flower"):
        home.json("resume")
        summary = home.json(*command, "--resume")
        assert (summary["lines"], summary["succeeded"], summary["failed"]) == (8000, 8000, 0)
        assert 0 < summary["resumed"] < 8000
    assert sorted(custom_ids(out)) == sorted(f"n{number}" for number in range(8000))


def test_failed_lines_are_failed_work(home: Home) -> None:
    """Exit code 1, and a file that says why."""
    with home.up(FLEET, "--no-flower"):
        path = batch(home.folder / "in.jsonl", 3)
        path.write_text(path.read_text().replace('"n1"', '"bad"').replace(MODEL, "no-such-model", 1))
        done = home.run("submit", str(path), "--out", str(home.folder / "out.jsonl"))
        assert done.returncode == 1, done.stderr
        assert len(custom_ids(home.folder / "out.jsonl")) == 2
        assert custom_ids(home.folder / "out.jsonl.errors.jsonl") == ["n0"]


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_up(home: Home, death: signal.Signals) -> None:
    """SIGTERM stops in order; SIGKILL cannot be handled, and leaves none either (the fixture looks)."""
    with home.up(FLEET, "--no-flower") as (process, _):
        assert len(home.processes()) > 4
        process.send_signal(death)
        process.communicate(timeout=30)
        assert process.returncode in (0, -signal.SIGKILL)


def test_up_on_a_given_redis_leaves_it_running(home: Home, redis_url: str) -> None:
    """No Redis is started, other commands find the given one, and it is there afterwards."""
    with home.up(FLEET, "--no-flower", "--redis-url", redis_url) as (_, ready):
        assert ready["redis_url"] == redis_url
        assert home.json("status")["leader"]
        assert not any("redis-server" in one for one in home.processes())
    with connect(redis_url) as client:
        assert client.ping()


def test_a_worker_that_cannot_start_is_said_at_once(home: Home) -> None:
    """Exit code 1 and its last words; everything else is stopped again."""
    process = home.start("up", "--no-flower", "--fleet", str(fleet_of(home, 'name = "a"\npool = "prefork"')), "--redis-url", "redis://127.0.0.1:1")
    said, shown = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert "does not answer" in shown
    assert "Traceback" not in shown


def fleet_of(home: Home, worker: str) -> Path:
    path = home.folder / "fleet.toml"
    path.write_text(f"[[worker]]\n{worker}\n")
    return path


AUTOSCALED = f"""
[[worker]]
name = "w"
models = ["{MODEL}"]
[autoscaler]
enabled = true
target_wait_s = 2
stabilization_s = 3
interval_s = 0.3
workers_min = 1
workers_max = 3
[dispatcher]
lease_ttl_s = 4
"""


def test_the_autoscaler_follows_the_work(home: Home) -> None:
    """A burst starts workers up to the maximum; when it is done idle ones are drained to the minimum; no job is lost or buried.

    An adviser beside it, with a higher maximum, says in one JSON line that it would start more, and starts none.
    """
    with home.up(AUTOSCALED, "--no-flower") as (process, ready):
        adviser = home.start("autoscale", "--advise", "--json")
        with app_of(ready["redis_url"]) as app:
            results = [
                app.send_task("workers.tasks.sleep", args=[0.5], queue="dispatch", headers=job_headers(cost=0.5)) for _ in range(40)
            ]
            eventually(lambda: len(home.workers()) == 3, START_S, lambda: home.json("status"))
            assert adviser.stdout is not None
            advice = json.loads(adviser.stdout.readline())
            assert advice["event"] == "ScalingAdvised"
            assert advice["start"]
            assert [result.get(timeout=60) for result in results]
            eventually(lambda: len(home.workers()) == 1, 30, lambda: home.json("status"))
            assert home.json("status")["dead"] == 0
        for one in (adviser, process):
            one.send_signal(signal.SIGINT)
            _, shown = one.communicate(timeout=30)
            assert one.returncode == 0, shown
        decisions = [line for line in shown.splitlines() if line.startswith("autoscaler: ")]
        assert "starting 2 × w" in decisions[0]
        assert "of work ÷ capacity" in decisions[0]
        assert any("draining w" in line for line in decisions)
        assert "starting it again" not in shown
