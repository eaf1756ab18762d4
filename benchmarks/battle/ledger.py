"""What ran, when and where: written by the tasks themselves into a Redis of its own, which no fault touches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

STREAM = "ledger"


@dataclass(slots=True)
class Run:
    """One execution. ``job`` is ``<task id>:<retries>``; ``ended_ms`` of ``None``: it never did. ``worker_pid`` is that of the worker's
    main process, ``pid`` that of the process that ran it.
    """

    job: str
    worker: str
    pid: int
    worker_pid: int
    started_ms: int
    ended_ms: int | None = None


class Ledger:
    """Reads on from where it stopped. Times are its Redis', which reads the same clock as everything here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._last = "-"
        self.runs: list[Run] = []
        self._open: dict[tuple[str, int], Run] = {}
        self.ended: set[str] = set()

    def now_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def read(self) -> int:
        """Take in what is new; how many lines that was."""
        count = 0
        for id_, line in self._new():
            what, task_id, retries, worker, pid, worker_pid = line.split(" ")
            job, at_ms = f"{task_id}:{retries}", int(id_.partition("-")[0])
            count += 1
            if what == "start":
                run = Run(job, worker, int(pid), int(worker_pid), at_ms)
                self.runs.append(run)
                # Threads of one process run one job twice at once only where something is very wrong; then both count as begun.
                self._open[job, int(pid)] = run
            else:
                self.ended.add(job)
                if (run_ := self._open.pop((job, int(pid)), None)) is not None:
                    run_.ended_ms = at_ms
        return count

    def _new(self) -> Iterator[tuple[str, str]]:
        while rows := self._client.xrange(STREAM, min=self._last if self._last == "-" else f"({self._last}", count=5000):
            for id_, fields in rows:
                yield id_, fields["e"]
            self._last = rows[-1][0]

    def dump(self, path: Path) -> None:
        """Every run, one a line, in the order they began."""
        with path.open("w") as file:
            for run in self.runs:
                file.write(f"{run.started_ms} {run.ended_ms or '-'} {run.job} {run.worker} {run.pid} {run.worker_pid}\n")
