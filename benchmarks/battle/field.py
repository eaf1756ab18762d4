"""The processes that are fought over: two Redis servers, two dispatchers, an autoscaler, workers; and who starts again what dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis

from benchmarks.battle.odd import MODEL
from benchmarks.private_redis import find_redis_server
from dispatcher.provision.child import Child, Children

APP = "benchmarks.battle.app"
SUPERVISE_S = 0.1
START_TIMEOUT_S = 60.0


class Server:
    """A Redis on a unix socket; with ``durable``, one whose append-only file has every write before it is answered."""

    def __init__(self, name: str, folder: Path, children: Children, *, durable: bool) -> None:
        self.name = name
        self.url = f"unix://{folder / name}.sock?db=0"
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._children = children
        self._log = folder / f"{name}.log"
        keep = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self._command = [
            find_redis_server(), "--port", "0", "--unixsocket", f"{folder / name}.sock", "--dir", str(self._folder), "--save", "",
            "--maxmemory-policy", "noeviction", *keep,
        ]  # fmt: skip
        self.child: Child | None = None

    def start(self) -> None:
        """Start it, and wait until it has read its file."""
        self.child = self._children.start(self.name, self._command, log=self._log, environ=os.environ)
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    def stop(self, sig: signal.Signals) -> None:
        assert self.child is not None
        self.child.signal(sig)
        while self.child.exit_code is None:
            time.sleep(0.005)
        self._children.forget(self.child)


@dataclass(slots=True)
class Post:
    """A process that must always run. ``may_end``: exit codes that what was done to it explains."""

    name: str
    command: Sequence[str]
    child: Child
    may_end: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Restart:
    """A process ended, and its successor was started. ``pid`` is the successor's."""

    name: str
    ended_ms: int
    started_ms: int
    pid: int
    before: int
    """The pid of the process that ended."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A process ended though nothing was done to it that explains how."""

    at_ms: int
    name: str
    pid: int
    code: int


class Field:
    """Everything that runs. Leave it with :meth:`end`: nothing outlives it."""

    def __init__(self, folder: Path, *, dispatched: bool, visibility_s: float = 0.0, odd: bool = False, **settings: object) -> None:
        """``settings``: knobs of the dispatcher by name, for every process. ``odd``: prefork workers say that they are, and serve the
        model of the lines that kill.
        """
        self.folder = folder
        self.dispatched = dispatched
        self._odd = odd
        self._children = Children()
        self.broker = Server("broker", folder, self._children, durable=True)
        self.ledger = Server("ledger", folder, self._children, durable=False)
        self.posts: dict[str, Post] = {}
        self.exits: list[Exit] = []
        self.restarts: list[Restart] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self.environ = dict(os.environ) | {
            "BATTLE_BROKER": self.broker.url,
            "BATTLE_LEDGER": self.ledger.url,
            "BATTLE_DISPATCHED": "1" if dispatched else "0",
            "BATTLE_VISIBILITY_S": str(visibility_s),
            "DISPATCHER_REDIS_URL": self.broker.url,
            "DISPATCHER_STATE_DIR": str(folder / "autoscaled"),
            # Workers are killed from outside, every few seconds: no job is to blame, however often it is hit.
            "DISPATCHER_ATTEMPTS_MAX": "50",
            "WORKERS_CALLABLES": f"{MODEL}=benchmarks.battle.odd:answer",
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
            **{f"DISPATCHER_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def start_servers(self) -> None:
        """The two Redis servers; what is started from now on is also started again."""
        self.broker.start()
        self.ledger.start()
        self._thread.start()

    def start_dispatcher(self, name: str) -> None:
        self._post(name, ["-m", "dispatcher", "-A", APP, "run"])

    def start_autoscaler(self) -> None:
        fleet = self.folder / "fleet.toml"
        odd = f'models = ["{MODEL}"]\nlabels = {{ pool = "prefork" }}\n' if self._odd else ""
        fleet.write_text(f'[[worker]]\nname = "scaled"\nconcurrency = 2\n{odd}')
        self._post("autoscaler", ["-m", "dispatcher", "-A", APP, "autoscale", "--fleet", str(fleet)])

    def start_worker(self, name: str, pool: str, concurrency: int) -> None:
        odd = ("--label", "pool=prefork", "--models", MODEL) if self._odd and pool == "prefork" else ()
        self._post(name, [
            "-m", "celery", "-A", APP, "worker", "-n", f"{name}@battle", "-P", pool, "-c", str(concurrency), "-l", "INFO",
            "--without-gossip", "--without-mingle", *odd,
        ])  # fmt: skip

    def _post(self, name: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, *arguments]
        with self._lock:
            self.posts[name] = Post(name, command, self._spawn(name, command))

    def _spawn(self, name: str, command: Sequence[str]) -> Child:
        return self._children.start(name, command, log=self.folder / f"{name}.log", environ=self.environ)

    # -- supervision

    def _supervise(self) -> None:
        while not self._stop.wait(SUPERVISE_S):
            with self._lock:
                for post in self.posts.values():
                    code = post.child.exit_code
                    if code is None:
                        continue
                    self._children.forget(post.child)
                    if code not in post.may_end:
                        self.exits.append(Exit(round(time.time() * 1000), post.name, post.child.pid, code))
                    ended_ms, before = round(time.time() * 1000), post.child.pid
                    end_group(before)  # what its pool may have left
                    post.child = self._spawn(post.name, post.command)
                    post.may_end = set()
                    self.restarts.append(Restart(post.name, ended_ms, round(time.time() * 1000), post.child.pid, before))

    def may_end(self, pid: int, *codes: int) -> None:
        """The process of that pid was done something to that explains these exit codes."""
        with self._lock:
            for post in self.posts.values():
                if post.child.pid == pid:
                    post.may_end |= set(codes)

    # -- who is there

    def pid(self, name: str) -> int:
        return self.posts[name].child.pid

    def workers(self) -> list[int]:
        """Main processes of the workers that run now, those of the autoscaler included."""
        with self._lock:
            own = [
                post.child.pid for name, post in sorted(self.posts.items())
                if not name.startswith(("dispatcher", "autoscaler")) and post.child.exit_code is None
            ]  # fmt: skip
            return own + (children_of(self.pid("autoscaler")) if "autoscaler" in self.posts else [])

    def who(self, pid: int) -> str:
        with self._lock:
            return next((post.name for post in self.posts.values() if post.child.pid == pid), f"of the autoscaler, {pid}")

    def end(self) -> None:
        """Kill everything, frozen or not."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        with self._lock:
            pids = [post.child.pid for post in self.posts.values()]
            for pid in pids + self.workers() if self.posts else pids:
                end_group(pid)
        for server in (self.broker, self.ledger):
            if server.child is not None:
                send(server.child.pid, signal.SIGCONT)
        self._children.close()


def children_of(pid: int) -> list[int]:
    """Its child processes."""
    pids: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            pids += [int(text) for text in path.read_text().split()]
    return sorted(pids)


def send(pid: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sig)


def send_group(pid: int, sig: signal.Signals) -> None:
    """To the process and its pool."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, sig)


def end_group(pid: int) -> None:
    send_group(pid, signal.SIGKILL)
    send_group(pid, signal.SIGCONT)
