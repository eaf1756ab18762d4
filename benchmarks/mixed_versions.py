"""Whether two versions of this package serve one cell together while both are restarted: jobs lost, and jobs run twice.

Two directions in one run: workers of the old version under a dispatcher of the new, then the other way round. Both are real processes
on a real Redis. While jobs come in at an even rate, the dispatcher and then one worker after another gets SIGTERM and is replaced by a
new process of the same version, twice; a restart is over when the new process has begun to serve. A restart with SIGTERM drains, so no
job may be lost or run twice. The value is how many were.

The old version is built from a commit, by default the newest of `benchmarks/releases.toml`; the new one is the work tree, or ``--new``.
Where git does not have the commit, nothing is run, and the last line says so.

    python -m benchmarks.mixed_versions [--old REV] [--new REV] [--jobs 2000] [--restarts 2] [--rate 80]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NoReturn
from uuid import UUID

import redis
from celery import Celery

from benchmarks.battle.fought import remains
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from benchmarks.versions import ROOT, NotThere, Version, newest_release, version_of
from dispatcher import job_headers
from dispatcher.provision.child import Child, Children
from dispatcher.store.redis_client.connection import celery_url

WORKERS = (("w1", "prefork", 3), ("w2", "threads", 4), ("w3", "solo", 1))
DISPATCHER = "dispatcher"
STEP_TIMEOUT_S = 60.0
BACKLOG_MAX = 150
"""With so many runs to come nothing more is sent: on a slow machine, what is sent after a restart would begin long after it."""
QUIET_S = 60.0
"""After so long without news from the ledger the missing jobs count as lost."""
LINGER_S = 2.0
"""So long after the last job has ended, whoever was about to run a job again has done it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is sent, and which runs must follow from it."""

    id: str
    task: str
    seconds: float
    options: dict[str, object]
    """Celery's, the header of the dispatcher among them."""

    @property
    def runs(self) -> tuple[str, ...]:
        """``<task id>:<retries>`` of each run that must happen exactly once."""
        return tuple(f"{self.id}:{retries}" for retries in range(2 if self.task == "mixed.again" else 1))


def make_job(rng: Random) -> Job:
    """A short job: most of them plain; some with a session, tenant and cost, a priority, a countdown, or a retry."""
    id_ = str(UUID(int=rng.getrandbits(128), version=4))
    seconds = round(rng.uniform(0.01, 0.1), 3)
    draw = rng.random()
    if draw < 0.3:
        said = job_headers(session=f"s{rng.randrange(50)}", tenant=f"t{rng.randrange(3)}", cost=seconds)
        return Job(id_, "mixed.nap", seconds, {"headers": said})
    if draw < 0.4:
        return Job(id_, "mixed.nap", seconds, {"priority": rng.randrange(10)})
    if draw < 0.45:
        return Job(id_, "mixed.nap", seconds, {"countdown": round(rng.uniform(0.1, 3.0), 1)})
    return Job(id_, "mixed.again" if draw < 0.5 else "mixed.nap", seconds, {})


@dataclass(slots=True)
class Ledger:
    """What the tasks wrote, read on from where it stopped."""

    client: redis.Redis
    began: Counter[str] = field(default_factory=Counter)
    """How often each run began."""
    ended: set[str] = field(default_factory=set)
    workers: dict[int, int] = field(default_factory=dict)
    """Pid of a worker → jobs that it began."""
    files: set[tuple[int, str]] = field(default_factory=set)
    """(pid of a worker, file of `dispatcher` in the process that ran its task)."""
    heard_at: float = field(default_factory=time.monotonic)
    _last: str = "0"

    def read(self) -> None:
        for id_, fields in self.client.xrange("runs", min=f"({self._last}"):
            self._last = id_
            what, task_id, retries, pid, file = fields["line"].split(" ", 4)
            run = f"{task_id}:{retries}"
            self.heard_at = time.monotonic()
            if what == "end":
                self.ended.add(run)
                continue
            self.began[run] += 1
            self.workers[int(pid)] = self.workers.get(int(pid), 0) + 1
            self.files.add((int(pid), file))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one direction came to."""

    jobs: int
    lost: int
    twice: int
    left: dict[str, int]
    """Places in Redis that still hold a job."""
    restarts: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not (self.lost or self.twice or self.left)


class Mixed:
    """One direction: a dispatcher of one version, workers of another, and the jobs that they serve. Leave it with :meth:`end`."""

    def __init__(self, url: str, folder: Path, *, dispatcher: Version, workers: Version, rate: float, rng: Random) -> None:
        self._folder = folder
        self._versions = {DISPATCHER: dispatcher} | {name: workers for name, _, _ in WORKERS}
        self._rng = rng
        self._pause_s = 1 / rate
        self._client = redis.Redis.from_url(url, decode_responses=True)
        ledger_url = url.replace("db=0", "db=1")
        self.ledger = Ledger(redis.Redis.from_url(ledger_url, decode_responses=True))
        self._environ = {name: text for name, text in os.environ.items() if not name.startswith("DISPATCHER_")} | {
            "DISPATCHER_REDIS_URL": url,
            "MIXED_BROKER": celery_url(url),
            "MIXED_LEDGER": ledger_url,
            "PYTHONUNBUFFERED": "1",
        }
        # A plain Celery producer, which knows nothing of a dispatcher.
        self._producer = Celery("producer", broker=celery_url(url), set_as_current=False)
        self._producer.conf.task_default_queue = "dispatch"
        self._due = time.monotonic()
        self._children = Children()
        self._running: dict[str, Child] = {}
        self._files: dict[str, str] = {}
        self.expected: set[str] = set()
        self.sent = 0
        self.restarts = 0
        shutil.copy(ROOT / "benchmarks" / "mixed_app.py", folder / "mixed_app.py")

    # -- processes

    def start_all(self) -> None:
        """Start every process, and send jobs until each worker has begun one."""
        for name in self._versions:
            self._start(name)
        pids = {self._running[name].pid: name for name, _, _ in WORKERS}
        self._serve_until(lambda: pids.keys() <= self.ledger.workers.keys(), "the workers do not all begin a job")

    def restart(self, name: str) -> None:
        """SIGTERM, wait for the end, start anew, and serve until the new process works; jobs come in all the while."""
        old = self._running.pop(name)
        old.signal(signal.SIGTERM)
        self._serve_until(lambda: old.exit_code is not None, f"{name} does not end after SIGTERM")
        self._check_exit(name, old)
        child = self._start(name)
        self.restarts += 1
        if name != DISPATCHER:
            self._serve_until(lambda: child.pid in self.ledger.workers, f"{name} begins no job after its restart")
            return
        # What the last dispatcher had handed out begins without the new one; what is sent from here on does not.
        before = len(self.expected)
        self._serve_until(lambda: len(self.expected) > before, "no job is sent")
        later = self._send().runs[0]
        self._serve_until(lambda: later in self.ledger.began, "no job begins after a restart of the dispatcher")

    def stop_all(self) -> None:
        """SIGTERM to the workers, then to the dispatcher; each must end well."""
        for names in ([name for name, _, _ in WORKERS], [DISPATCHER]):
            children = {name: self._running.pop(name) for name in names}
            self._children.stop(children.values(), timeout_s=30)
            for name, child in children.items():
                self._check_exit(name, child)

    def end(self) -> None:
        """Kill what is left."""
        self._children.close()

    def _start(self, name: str) -> Child:
        command = [sys.executable, "-m", "dispatcher", "-A", "mixed_app", "run"]
        for worker, pool, concurrency in WORKERS:
            if worker == name:
                command = [
                    sys.executable, "-m", "celery", "-A", "mixed_app", "worker", "-n", f"{name}@mixed", "-P", pool, "-c", str(concurrency),
                    "-l", "INFO", "--without-gossip", "--without-mingle",
                ]  # fmt: skip
        path = os.pathsep.join([str(self._versions[name].folder), str(self._folder)])
        environ = self._environ | {"PYTHONPATH": path, "MIXED_ROLE": name}
        child = self._children.start(name, command, log=self._folder / f"{name}.log", environ=environ)
        self._running[name] = child
        return child

    def _check_exit(self, name: str, child: Child) -> None:
        self._children.forget(child)
        if child.exit_code != 0:
            raise RuntimeError(f"{self._label(name)} ended with {child.exit_code}: {child.log_tail(10)}")

    def _label(self, name: str) -> str:
        return f"{name} of {self._versions[name].name}"

    # -- jobs

    def send_until(self, count: int) -> None:
        """Send until so many have been sent."""
        while self.sent < count:
            self._serve()

    def _serve_until(self, happened: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while not happened():
            self._serve()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{self._label(name)}: {child.log_tail(10)}" for name, child in self._running.items())
                raise TimeoutError(f"{complaint}, not within {STEP_TIMEOUT_S:.0f} s:\n{logs}")

    def _serve(self) -> None:
        """Send the next job when it is due, and look at what has happened."""
        if (rest := self._due - time.monotonic()) > 0:
            time.sleep(rest)
        self._due = max(self._due + self._pause_s, time.monotonic() - 1)
        if len(self.expected) - len(self.ledger.ended) < BACKLOG_MAX:
            self._send()
        self.ledger.read()
        for name, child in self._running.items():
            if child.exit_code is not None:
                raise RuntimeError(f"{self._label(name)} ended by itself with {child.exit_code}: {child.log_tail(10)}")

    def _send(self) -> Job:
        job = make_job(self._rng)
        self._producer.send_task(job.task, (job.seconds,), task_id=job.id, queue="dispatch", **job.options)
        self.expected.update(job.runs)
        self.sent += 1
        return job

    def wait_until_done(self) -> None:
        """Until every run has ended, or nothing has happened for :data:`QUIET_S`."""
        self.ledger.heard_at = time.monotonic()
        while not self.expected <= self.ledger.ended and time.monotonic() < self.ledger.heard_at + QUIET_S:
            time.sleep(0.05)
            self.ledger.read()
        time.sleep(LINGER_S)
        self.ledger.read()

    # -- the verdict

    def check_files(self) -> None:
        """Every process ran the version that it should have. RuntimeError otherwise: the rest would say nothing."""
        said = self.ledger.client.hgetall("files").items()
        for role_and_pid, file in said:
            role, _, pid = role_and_pid.partition(" ")
            wrong = {ran for ran in (file, *(ran for owner, ran in self.ledger.files if owner == int(pid))) if not self._is_of(role, ran)}
            if wrong:
                raise RuntimeError(f"{self._label(role)}, pid {pid}, ran {', '.join(sorted(wrong))}")
        roles = Counter(role_and_pid.partition(" ")[0] for role_and_pid, _ in said)
        if roles.keys() != self._versions.keys():
            raise RuntimeError(f"only these processes say what they ran: {dict(roles)}")

    def _is_of(self, role: str, file: str) -> bool:
        return Path(file) == self._versions[role].folder / "dispatcher" / "__init__.py"

    def outcome(self, seconds: float) -> Outcome:
        lost = len(self.expected - self.ledger.ended)
        twice = sum(count - 1 for count in self.ledger.began.values())
        return Outcome(self.sent, lost, twice, remains(self._client), self.restarts, seconds)


def run(url: str, folder: Path, *, dispatcher: Version, workers: Version, jobs: int, restarts: int, rate: float) -> Outcome:
    """One direction, from the first process to the verdict."""
    began = time.monotonic()
    redis.Redis.from_url(url).flushall()
    mixed = Mixed(url, folder, dispatcher=dispatcher, workers=workers, rate=rate, rng=Random(1))
    try:
        mixed.start_all()
        order = [DISPATCHER, *(name for name, _, _ in WORKERS)] * restarts
        first = mixed.sent
        for number, name in enumerate(order):
            mixed.send_until(first + (jobs - first) * number // len(order))  # spread over all the jobs, where that is later
            mixed.restart(name)
        mixed.send_until(jobs)
        mixed.wait_until_done()
        mixed.check_files()
        outcome = mixed.outcome(time.monotonic() - began)
        mixed.stop_all()
        return outcome
    finally:
        mixed.end()


def skip(reason: str) -> NoReturn:
    """Nothing was run, and that is no failure."""
    print(f"skipped: {reason}")
    print(json.dumps({"name": "mixed_versions", "value": None, "limit": 0, "ok": True, "runs": [], "skipped": reason}))
    sys.exit(0)


def sentence(dispatcher: Version, workers: Version, outcome: Outcome) -> str:
    left = f", left in Redis: {outcome.left}" if outcome.left else ""
    return (
        f"dispatcher of {dispatcher.name}, workers of {workers.name}: {outcome.jobs} jobs over {outcome.restarts} restarts, "
        f"{outcome.lost} lost, {outcome.twice} run twice{left}, {outcome.seconds:.0f} s"
    )


def compare(old: Version, new: Version, folder: Path, options: argparse.Namespace) -> Iterable[Outcome]:
    for dispatcher, workers in ((new, old), (old, new)):
        place = folder / ("old-workers" if workers is old else "new-workers")
        place.mkdir()
        os.chdir(place)  # Celery looks for the app in the working folder first, and would find `dispatcher` in the work tree
        with private_redis() as url:
            outcome = run(
                url, place, dispatcher=dispatcher, workers=workers, jobs=options.jobs, restarts=options.restarts, rate=options.rate
            )
        print(sentence(dispatcher, workers, outcome), flush=True)
        yield outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", metavar="REV", help="the old version; the newest release of benchmarks/releases.toml if not given")
    parser.add_argument("--new", metavar="REV", help="the new version; the work tree if not given")
    parser.add_argument("--jobs", type=int, default=2000, help="in each direction, at least: the restarts are waited for")
    parser.add_argument("--restarts", type=int, default=2, help="of each process")
    parser.add_argument("--rate", type=float, default=80.0, help="jobs a second")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mixed-versions-", dir="/tmp"))
    try:
        old, new = version_of(options.old or newest_release(), folder), version_of(options.new, folder)
    except NotThere as exc:
        shutil.rmtree(folder)
        skip(str(exc))
    try:
        outcomes = list(compare(old, new, folder, options))
    except (RuntimeError, TimeoutError) as exc:
        sys.exit(f"{exc}\nThe logs are in {folder}.")
    wrong = [float(outcome.lost + outcome.twice) for outcome in outcomes]
    ok = all(outcome.ok for outcome in outcomes)
    if ok:
        shutil.rmtree(folder)
    else:
        print(f"The logs are in {folder}.")
    finish(
        "mixed_versions", value=sum(wrong), limit=0, ok=ok, runs=wrong, old=old.name, new=new.name,
        jobs=[outcome.jobs for outcome in outcomes], restarts=[outcome.restarts for outcome in outcomes],
        lost=sum(outcome.lost for outcome in outcomes), twice=sum(outcome.twice for outcome in outcomes),
        left=sum(sum(outcome.left.values()) for outcome in outcomes),
    )  # fmt: skip


if __name__ == "__main__":
    main()
