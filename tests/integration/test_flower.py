"""The real Flower over a real Redis, a dispatcher and two workers: what its pages show is what is there."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.observe.flower import command, environment
from dispatcher.store.keys import Keys
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.redis_client.connection import connect
from tests.eventually import eventually
from tests.redis_server import RedisServer

pytest.importorskip("flower")

HOST = socket.gethostname()
DISPATCHER, SOLO, BIG = f"dispatcher@{HOST}", f"solo@{HOST}", f"big@{HOST}"
OFFLINE_S = 15.0
"""The promise: a killed worker is shown offline this soon."""


class FlowerCell:
    """Redis on a unix socket, `dispatcher run`, two `celery worker`s and Flower, each a process of its own."""

    def __init__(self, folder: Path, redis_server: RedisServer) -> None:
        self.folder = folder
        self.client = connect(redis_server.url())
        self.admin = AdminStore(self.client, Keys(), ["dispatch"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._environ = {
            **os.environ, **environment(redis_server.url()), "DISPATCHER_FLOWER_URL": self.url, "FLOWER_UNAUTHENTICATED_API": "true",
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        worker = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--loglevel", "INFO", "--models", "hash-384"]
        self._start("flower", command(redis_server.url(), port))
        self._start("dispatcher", [sys.executable, "-m", "dispatcher", "run"])
        self._start(SOLO, [*worker, "-n", SOLO, "--pool", "solo"])
        self._start(BIG, [*worker, "-n", BIG, "--concurrency", "2", "--weight", "2"])

    def _start(self, name: str, arguments: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                arguments, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """SIGKILL, its pool included, as when a machine goes."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def stop(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.kill(name)
        self.client.close()

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in self.folder.glob("*.log"))

    # -- what Flower shows

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as reply:
                return str(reply.read().decode())
        except OSError as exc:
            raise AssertionError(f"Flower does not answer {path}: {exc}") from exc

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Rows of the Workers tab."""
        return {row["hostname"]: row for row in json.loads(self.page("/workers?json=1"))["data"]}

    def online(self) -> dict[str, bool]:
        return {name: row["status"] for name, row in self.nodes().items()}

    def depths(self) -> dict[str, int]:
        """Rows of the Broker tab: name and messages of each queue."""
        rows = re.findall(r"<tr[^>]*>\s*<td[^>]*>(.*?)</td>\s*<td[^>]*>(.*?)</td>", self.page("/broker"), re.DOTALL)
        return {html.unescape(name.strip()): int(depth.replace(",", "")) for name, depth in rows}

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Rows of the Tasks tab, by task id."""
        found: dict[str, dict[str, Any]] = json.loads(self.page("/api/tasks?limit=1000"))
        return found

    def send(self, task: str, *args: object, **options: Any) -> str:
        from dispatcher.settings import Settings
        from dispatcher.store.redis_client.connection import celery_url
        from workers.app import make_app  # not the module's own app: its broker is fixed when it is imported

        url = celery_url(self._environ["DISPATCHER_REDIS_URL"])
        with make_app(Settings(), url) as app:
            return str(app.send_task(task, args, **options).id)


@pytest.fixture(scope="module")
def cell(redis_executable: str) -> Iterator[FlowerCell]:
    folder = Path(tempfile.mkdtemp(prefix="flower-", dir="/tmp"))
    redis_server = RedisServer(redis_executable, folder)
    cell = FlowerCell(folder, redis_server)
    try:
        eventually(lambda: cell.online() == {DISPATCHER: True, SOLO: True, BIG: True}, 60, cell.logs)
        yield cell
    finally:
        cell.stop()
        redis_server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
def test_flower_shows_the_truth(cell: FlowerCell) -> None:
    """One story, since starting it all takes seconds: tasks, depths, a busy solo worker, a killed worker."""
    _tasks_have_their_states(cell)
    _depths_are_those_of_the_lists(cell)
    _a_busy_solo_worker_is_online(cell)
    _a_killed_worker_is_offline_soon(cell)


def _tasks_have_their_states(cell: FlowerCell) -> None:
    """A job is shown with its end and the worker that ran it. Flower turns task events on itself, every five seconds."""

    def seen() -> dict[str, Any]:
        done, failed = cell.send("workers.tasks.noop"), cell.send("workers.tasks.sleep", "no number")
        states = {"SUCCESS": done, "FAILURE": failed}
        eventually(lambda: all(cell.tasks()[task_id]["state"] == state for state, task_id in states.items()), 3)
        return cell.tasks()[done]

    def shown() -> dict[str, Any]:
        try:
            return seen()
        except LookupError as exc:
            raise AssertionError(f"Flower does not know task {exc}") from exc

    assert eventually(shown, 30, cell.logs)["worker"] in (SOLO, BIG)


def _depths_are_those_of_the_lists(cell: FlowerCell) -> None:
    """Ingress (all priorities), lane and worker queues: each is named and has the length that Redis gives."""
    for _ in range(12):  # more than both workers' windows hold, and long enough to stay
        cell.send("workers.tasks.sleep", 120)
    keys = Keys()

    def settled() -> Any:
        """What waits and what runs, once they are all the jobs: a status is read in several calls, between which one may be assigned."""
        status = cell.admin.status()
        here = sum(lane["depth"] for lane in status["lanes"]) + sum(one["leased"] for one in status["workers"])
        return here == 12 and sum(one["running"] for one in status["workers"]) == 3 and status

    status = eventually(settled)
    (lane,) = status["lanes"]
    queued = {keys.worker_queue(one["epoch"]): one["leased"] - one["running"] for one in status["workers"]}
    expected = {"dispatch": 0, keys.lane(lane["lane"]): lane["depth"], **queued}

    def shown() -> dict[str, int]:
        """Without lanes that were seen to hold a job a moment ago, and are named for a while."""
        return {name: depth for name, depth in cell.depths().items() if depth or name in expected}

    eventually(lambda: shown() == expected, 20, lambda: (shown(), expected))

    cell.admin.pause("dispatch")
    eventually(lambda: cell.send("workers.tasks.noop") and cell.client.llen("dispatch") > 0)
    waiting = int(cell.client.llen("dispatch"))  # type: ignore[arg-type]
    for priority in (0, 6):
        for _ in range(2):
            cell.send("workers.tasks.noop", priority=priority)
    eventually(lambda: cell.depths()["dispatch"] == waiting + 4, 20, cell.depths)


def _a_busy_solo_worker_is_online(cell: FlowerCell) -> None:
    """Its pool sends no events while its job runs: the node does, so its heartbeats go on far past their expiry."""
    before = cell.nodes()[SOLO]
    eventually(lambda: cell.nodes()[SOLO]["heartbeats"][-1] > before["heartbeats"][-1] + 3 * before["freq"], 30)

    assert cell.nodes()[SOLO]["status"]
    assert cell.nodes()[SOLO]["active"] == 1


def _a_killed_worker_is_offline_soon(cell: FlowerCell) -> None:
    """Within 15 s of SIGKILL; everybody else stays online."""
    for name in (BIG, SOLO):
        cell.kill(name)
        eventually(lambda name=name: cell.online()[name] is False, OFFLINE_S, cell.online)  # type: ignore[misc]
        assert cell.online()[DISPATCHER]


def test_every_page_opens(cell: FlowerCell) -> None:
    """The dispatcher's own page, the tasks and the queues: no page ends in an error."""
    for path in ("/", "/workers", "/tasks", "/broker", f"/worker/{DISPATCHER}"):
        assert "</html>" in cell.page(path)
