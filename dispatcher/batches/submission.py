"""Sends a batch file as chunks and collects the results; can be interrupted at any point and finished by another process.

A chunk's task id is noted before it is sent; its lines are on disk before its result is forgotten. So a chunk is sent
again only if the process died between noting and sending, or if its result has expired; and whatever is computed
twice, each line is written once.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from celery import Celery, states
from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.result import denied_join_result
from kombu.exceptions import OperationalError

from dispatcher.batches.lines import BatchFile, Line, read_batch
from dispatcher.batches.outcomes import ChunkOutcome, outcome
from dispatcher.batches.planner import Chunk, cost_s, plan_chunks
from dispatcher.batches.results import ResultFiles, default_errors_path
from dispatcher.batches.state import PlanFacts, SentChunk, SubmissionState
from dispatcher.clock import Clock, SystemClock
from dispatcher.core.facts.header import job_headers
from dispatcher.errors import Invalid, PoisonJob, Unavailable
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect, tls_options

TASK = "workers.tasks.infer"
CHUNKS_IN_FLIGHT_MAX = 1024
"""Chunks sent and not yet collected: what a large file may hold in Redis at a time."""
RESULTS_READ_AT_ONCE = 16
SENDS_A_STEP = 32
OUTAGE_MAX_S = 60.0
_POLL_MIN_S, _POLL_MAX_S = 0.02, 0.25
_OUTAGE = (redis.ConnectionError, redis.TimeoutError, OperationalError)


@dataclass(slots=True)
class WorkerShare:
    """What one worker did for this submission."""

    chunks: int = 0
    lines: int = 0
    busy_ms: int = 0


@dataclass(slots=True)
class Progress:
    """Where a submission is. Given to the callback after each change; the object is always the same one."""

    lines: int
    """Requests in the file."""
    resumed: int = 0
    """Of these, those whose results were in the files at the start."""
    succeeded: int = 0
    failed: int = 0
    chunks: int = 0
    chunks_in_flight: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    by_worker: dict[str, WorkerShare] = field(default_factory=dict)
    """Worker node name → what it did, as far as this process collected it; ``""`` has the chunks that nobody finished."""

    @property
    def done(self) -> int:
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class Summary:
    """How a submission ended."""

    out: Path
    errors: Path | None
    """``None`` when no line failed."""
    progress: Progress
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether every line succeeded."""
        return self.progress.failed == 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A chunk, or one line of a chunk that was split. ``number`` names it in the state."""

    number: str
    chunk: Chunk
    lines: tuple[Line, ...]
    task_id: str


def submit_file(
    app: Celery,
    path: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    errors: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    settings: Settings | None = None,
    queue: str = "dispatch",
    clock: Clock | None = None,
) -> Summary:
    """Run every line of the batch file ``path``; returns when each has a line in ``out`` or in ``errors``.

    ``model`` stands in for the model of every line. ``errors`` is by default ``<out>.errors.jsonl``. Interrupted (by
    Ctrl-C, a kill, an error), the same call with ``resume=True`` does the rest, and begins at the beginning where
    there is nothing to resume.

    Raises :class:`InvalidBatch` with all mistakes of the file, :class:`Invalid` for files that cannot be used, and
    :class:`Unavailable` when Redis does not answer for a minute.
    """
    settings = settings or Settings()
    batch = read_batch(Path(path), model=model)
    out = Path(out)
    if Path(path).resolve() in {one.resolve() for one in (out, Path(errors) if errors else default_errors_path(out))}:
        raise Invalid(f"{path} is the batch: results and errors must go elsewhere")
    files = ResultFiles(out, Path(errors) if errors else default_errors_path(out), resume=resume,
                        custom_ids=frozenset(line.custom_id for line in batch.lines))
    url = settings.redis_url or str(app.conf.broker_write_url or app.conf.broker_url)
    with files, connect(url, options=tls_options(app.conf.broker_use_ssl)) as client:
        options = app.conf.broker_transport_options or {}
        keys = Keys(cell=settings.cell, prefix=options.get("global_keyprefix", ""))
        submission = Submission(app, batch, files, SubmissionState(client, keys, out), settings=settings, model=model, queue=queue,
                                progress=progress, clock=clock or SystemClock())
        return submission.run(resume=resume)


class Submission:
    """One batch file on its way. One thread drives it."""

    def __init__(
        self, app: Celery, batch: BatchFile, files: ResultFiles, state: SubmissionState, *, settings: Settings, model: str | None,
        queue: str, progress: Callable[[Progress], None] | None, clock: Clock,
    ) -> None:  # fmt: skip
        if isinstance(app.backend, DisabledBackend):
            raise Invalid("the Celery app has no result backend, so no result can come back: set result_backend")
        self._app = app
        self._batch = batch
        self._files = files
        self._state = state
        self._facts = PlanFacts(batch.digest, model, settings.chunk_tokens_max, settings.chunk_lines_max)
        self._queue = queue
        self._report = progress or (lambda _: None)
        self._clock = clock
        self._to_send: deque[_InFlight] = deque()
        self._in_flight: dict[str, _InFlight] = {}
        self.progress = Progress(lines=len(batch.lines), resumed=len(files.succeeded) + len(files.failed))

    def run(self, *, resume: bool) -> Summary:
        """Send, collect, until every line is in the files."""
        started_ms = last_answer_ms = self._clock.monotonic_ms()
        pause_s = _POLL_MIN_S
        begun = False
        while True:
            try:
                if not begun:
                    self._plan(resume=resume)
                    begun = True
                    self._count()
                moved = self.step()
                last_answer_ms = self._clock.monotonic_ms()
                if not self._to_send and not self._in_flight:
                    self._state.finish()
                    break
            except _OUTAGE as exc:
                moved = False
                if self._clock.monotonic_ms() - last_answer_ms > OUTAGE_MAX_S * 1000:
                    raise Unavailable(f"Redis has not answered for {OUTAGE_MAX_S:.0f} s ({exc}): once it is back, resume") from exc
            pause_s = _POLL_MIN_S if moved else min(pause_s * 1.5, _POLL_MAX_S)
            self._clock.sleep(pause_s)
        errors = self._files.errors if self._files.failed else None
        return Summary(self._files.out, errors, self.progress, (self._clock.monotonic_ms() - started_ms) / 1000)

    def step(self) -> bool:
        """Send some chunks if there is room, and collect what is ready; never waits. Says whether it did anything."""
        sent = 0
        moved = False
        while self._to_send and len(self._in_flight) < CHUNKS_IN_FLIGHT_MAX and sent < SENDS_A_STEP:
            self._send_next()
            moved = True
            sent += 1
        ids = list(self._in_flight)
        for start in range(0, len(ids), RESULTS_READ_AT_ONCE):
            for task_id, meta in self._ready(ids[start : start + RESULTS_READ_AT_ONCE]):
                self._collect(self._in_flight[task_id], meta)
                moved = True
        return moved

    def _plan(self, *, resume: bool) -> None:
        """Fill ``_to_send`` and ``_in_flight`` from the file, the state in Redis, and what is in the result files."""
        facts, sent = self._state.load() if resume else (None, {})
        if facts is not None and (facts.input_sha256, facts.model) != (self._facts.input_sha256, self._facts.model):
            raise Invalid(f"{self._files.out} was begun with another input or model than {self._batch.path}: "
                          "resume with the same, or name another --out")
        facts = facts or self._facts  # an earlier plan is kept, even if the settings have changed since
        if not sent:
            self._state.begin(facts)
        expires_s = self._app.conf.result_expires
        lifetime_s = getattr(expires_s, "total_seconds", lambda: expires_s)() or float("inf")
        self._to_send.clear()
        self._in_flight.clear()
        chunks = plan_chunks(self._batch.lines, tokens_max=facts.tokens_max, lines_max=facts.lines_max)
        self.progress.chunks = len(chunks)
        for chunk in chunks:
            parts = self._parts(chunk, sent)
            self.progress.chunks += len(parts) - 1
            for number, lines in parts:
                missing = tuple(line for line in lines if not self._files.has(line.custom_id))
                earlier = sent.get(number)
                if not missing:
                    if earlier is not None:  # the process died after writing the lines
                        self._forget(number, earlier.task_id)
                    continue
                one = _InFlight(number, chunk, missing, earlier.task_id if earlier else str(uuid.uuid4()))
                if earlier is not None and earlier.age_s is not None and earlier.age_s < lifetime_s:
                    self._in_flight[one.task_id] = one
                else:
                    self._to_send.append(one)

    @staticmethod
    def _parts(chunk: Chunk, sent: Mapping[str, SentChunk]) -> list[tuple[str, tuple[Line, ...]]]:
        """The chunk by its number, or its lines by theirs where it was split."""
        number = str(chunk.number)
        parts: list[tuple[str, tuple[Line, ...]]] = [(_part(number, line), (line,)) for line in chunk.lines]
        split = number not in sent and any(part in sent for part, _ in parts)
        return parts if split else [(number, chunk.lines)]

    def _send_next(self) -> None:
        one = self._to_send[0]
        chunk = one.chunk
        lines = [{"index": line.index, "custom_id": line.custom_id, "body": body}
                 for line, body in zip(one.lines, self._batch.bodies(list(one.lines)), strict=True)]
        self._state.sending(one.number, one.task_id)
        with denied_join_result():  # or Celery subscribes to each result, and Redis pushes at us what we read in bulk
            self._app.send_task(TASK, args=[{"model": chunk.model, "url": chunk.url, "lines": lines}], queue=self._queue,
                                task_id=one.task_id, headers=job_headers(model=chunk.model, cost=cost_s(one.lines)),
                                add_to_parent=False)
        self._to_send.popleft()
        self._in_flight[one.task_id] = one
        self._state.sent(one.number, one.task_id)

    def _ready(self, task_ids: list[str]) -> list[tuple[str, dict[str, Any]]]:
        """Those that have ended, with Celery's record of them. One round trip where the backend can read many."""
        backend = self._app.backend
        if isinstance(backend, KeyValueStoreBackend):
            values = backend.mget([backend.get_key_for_task(task_id) for task_id in task_ids])
            metas = [backend.decode_result(value) if value else None for value in values]
        else:
            metas = [backend.get_task_meta(task_id, cache=False) for task_id in task_ids]
        return [(task_id, meta) for task_id, meta in zip(task_ids, metas, strict=True)
                if meta is not None and meta["status"] in states.READY_STATES]

    def _collect(self, one: _InFlight, meta: dict[str, Any]) -> None:
        if isinstance(meta["result"], PoisonJob) and len(one.lines) > 1:
            self._split(one)
            return
        ended = outcome(meta, one.lines, self._state.digest)
        self._files.append(ended.lines)
        del self._in_flight[one.task_id]
        self._tally(ended)
        self._count()
        self._forget(one.number, one.task_id)  # last: until here an interruption loses nothing

    def _split(self, one: _InFlight) -> None:
        """The chunk killed its worker each time: send each line by itself, so that only the one that did it fails.

        Not in halves: each half that kills costs some workers more, and a line costs next to nothing.
        """
        parts = [_InFlight(_part(one.number, line), one.chunk, (line,), str(uuid.uuid4())) for line in one.lines]
        self._state.split(one.number, [(part.number, part.task_id) for part in parts])
        del self._in_flight[one.task_id]
        self._to_send.extend(parts)
        self.progress.chunks += len(parts) - 1
        self._count()
        self._app.backend.forget(one.task_id)

    def _forget(self, number: str, task_id: str) -> None:
        self._state.collected(number)
        self._app.backend.forget(task_id)

    def _tally(self, ended: ChunkOutcome) -> None:
        share = self.progress.by_worker.setdefault(ended.worker, WorkerShare())
        share.chunks += 1
        share.lines += len(ended.lines)
        share.busy_ms += ended.busy_ms
        for name, count in ended.usage.items():
            self.progress.usage[name] = self.progress.usage.get(name, 0) + count

    def _count(self) -> None:
        self.progress.succeeded = len(self._files.succeeded)
        self.progress.failed = len(self._files.failed)
        self.progress.chunks_in_flight = len(self._in_flight)
        self._report(self.progress)


def _part(number: str, line: Line) -> str:
    """What a line of a chunk is called in the state."""
    return f"{number}.{line.index}"
