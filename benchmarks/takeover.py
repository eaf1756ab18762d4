"""How long jobs wait when the leading dispatcher is killed, and whether any is lost or run twice.

Two dispatchers, three attached workers, and a stream of jobs at a sixth of what the workers can do. Again and again the leader is killed
with SIGKILL, at a moment of the seed's, and a new standby is started. Each job notes that it began in database 1, which no dispatcher
knows. A takeover lasts from the kill to the end of the longest pause, before the next kill, in which no job began; the value is the 99th
percentile.

    python -m benchmarks.takeover [--kills 20] [--rate 60] [--seed 1]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import redis

from benchmarks.cluster import WorkerSpec, celery_broker, fleet, outstanding, wait_for
from benchmarks.private_redis import private_redis
from benchmarks.result import finish
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect

LIMIT_S = 3.0
WORKERS = (WorkerSpec("w1", 4, "threads"), WorkerSpec("w2", 2), WorkerSpec("w3", 2))
JOB_S = 0.02


class Standby:
    """A dispatcher process, and its log."""

    def __init__(self, url: str, folder: Path, number: int) -> None:
        self._log = folder / f"dispatcher{number}.log"
        environ = os.environ | {"BENCH_REDIS_URL": url, "BENCH_DISPATCHED": "1"}
        command = [sys.executable, "-m", "dispatcher", "-A", "benchmarks.app", "run"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)

    def wait_until(self, says: str) -> None:
        """It logs that it ``leads now``, or ``stands by``."""
        try:
            wait_for(lambda: says in self._log.read_text(), 60)
        except TimeoutError:
            raise TimeoutError(f"a dispatcher does not say {says!r}:\n{self._log.read_text()}") from None


@dataclass
class Stream:
    """Sends jobs at an even pace until it is told to stop. ``sent_ms``: when each was, by the machine's clock, as Redis'."""

    url: str
    rate: float
    stop: threading.Event = field(default_factory=threading.Event)
    sent_ms: list[int] = field(default_factory=list)

    def run(self) -> None:
        from benchmarks.app import app

        with app.connection_for_write(url=celery_broker(self.url)) as connection:
            due = time.monotonic()
            while not self.stop.is_set():
                self.sent_ms.append(time.time_ns() // 1_000_000)
                app.send_task("bench.noted", (len(self.sent_ms) - 1, JOB_S), connection=connection)
                due += 1 / self.rate
                self.stop.wait(max(0.0, due - time.monotonic()))


@contextmanager
def streaming(url: str, rate: float) -> Any:
    stream = Stream(url, rate)
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        stream.stop.set()
        thread.join(10)


def beginnings(ledger: redis.Redis) -> list[tuple[int, int]]:
    """(job, ms when it began), in order."""
    entries: Any = ledger.xrange("bench:ran")
    return [(int(facts["number"]), int(id_.partition("-")[0])) for id_, facts in entries]


def takeover_ms(began_ms: list[int], killed_ms: int, until_ms: int) -> int:
    """From the kill to the end of the longest pause after it. What the last leader had given out may begin before that pause."""
    moments = [killed_ms, *(at_ms for at_ms in began_ms if killed_ms < at_ms < until_ms)]
    _, end_ms = max((after - before, after) for before, after in pairwise(moments))
    return end_ms - killed_ms


def run(kills: int, rate: float, seed: int, url: str, folder: Path) -> None:
    rng = Random(seed)
    ledger = connect(url.replace("db=0", "db=1"))
    leader = Standby(url, folder, 0)
    leader.wait_until("leads now")
    dispatchers = [leader]
    killed_ms: list[int] = []
    leaders = set()
    try:
        with fleet(url, WORKERS, dispatched=True, dispatchers=0):
            standby = Standby(url, folder, 1)
            dispatchers.append(standby)
            standby.wait_until("stands by")
            with streaming(url, rate) as stream:
                for number in range(kills):
                    time.sleep(rng.uniform(0.5, 1.5))  # any moment between two renewals
                    leaders.add(connect(url).get(Keys().leader))
                    killed_ms.append(time.time_ns() // 1_000_000)
                    leader.process.kill()
                    leader.process.wait()
                    standby.wait_until("leads now")
                    leader, standby = standby, Standby(url, folder, number + 2)
                    dispatchers.append(standby)
                    standby.wait_until("stands by")
                time.sleep(1)
            wait_for(lambda: outstanding(url) == 0, 60)
            began = beginnings(ledger)
    finally:
        for dispatcher in dispatchers:
            dispatcher.process.kill()
            dispatcher.process.wait()
    runs = Counter(job for job, _ in began)
    lost = len(stream.sent_ms) - len(runs)
    duplicated = sum(count - 1 for count in runs.values())
    began_ms = [at_ms for _, at_ms in began]
    takeovers_s = sorted(takeover_ms(began_ms, *span) / 1000 for span in pairwise([*killed_ms, began_ms[-1] + 1]))
    waits_s = sorted((at_ms - stream.sent_ms[job]) / 1000 for job, at_ms in began)
    p50, p99 = median(takeovers_s), takeovers_s[min(len(takeovers_s) - 1, int(0.99 * len(takeovers_s)))]
    print(
        f"{kills} leaders killed under {len(stream.sent_ms)} jobs: {lost} lost, {duplicated} run twice; takeover p50 {p50:.2f} s, "
        f"p99 {p99:.2f} s; a job waited {median(waits_s) * 1000:.0f} ms (median), {waits_s[-1]:.2f} s (most)"
    )
    ok = not lost and not duplicated and p99 <= LIMIT_S and len(leaders) == kills
    finish(
        "takeover_p99_s", value=p99, limit=LIMIT_S, ok=ok, runs=takeovers_s, lost=lost, duplicated=duplicated, p50=p50,
        waited_most_s=waits_s[-1],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=60.0, help="jobs a second")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with private_redis() as url, tempfile.TemporaryDirectory(prefix="takeover-") as folder:
        run(args.kills, args.rate, args.seed, url, Path(folder))


if __name__ == "__main__":
    main()
