"""Sends a batch file as chunks and collects the results. Another process can finish it, wherever it is interrupted.

A chunk's task id is noted before the chunk is sent; its lines are on disk before its result is forgotten. So a chunk is
sent again only if the process died between noting and sending, or if its result has expired. Even if a line is computed
twice, it is written once.
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
from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend
from celery.result import denied_join_result
from kombu.exceptions import OperationalError

from dispatcher.batches.lines import BatchFile, Line, read_batch
from dispatcher.batches.outcomes import ChunkOutcome, Unreadable, may_be_of_one_line, not_sent, outcome
from dispatcher.batches.planner import Chunk, cost_s, plan_chunks
from dispatcher.batches.results import ResultFiles, default_errors_path
from dispatcher.batches.sending import why_not_sent
from dispatcher.batches.state import PlanFacts, SentChunk, SubmissionState
from dispatcher.batches.tokens import ESTIMATOR
from dispatcher.clock import Clock, SystemClock
from dispatcher.core.facts.header import job_headers
from dispatcher.errors import Invalid, Unavailable
from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import connect, is_lasting, sentence_of, tls_options

TASK = "workers.tasks.infer"
CHUNKS_IN_FLIGHT_MAX = 1024
"""Chunks sent and not yet collected: it bounds how much of Redis' memory a large file takes."""
RESULTS_READ_AT_ONCE = 16
SENDS_A_STEP = 32
OUTAGE_MAX_S = 60.0
_UNLED = "no dispatcher leads this cell: the chunks wait until one does, so start one with `dispatcher run`"
_POLL_MIN_S, _POLL_MAX_S = 0.02, 0.25
UNLED_AFTER_S = 3.0
"""Nothing has ended for so long: then a submission looks if anybody leads. A standby takes that long to lead."""
_OUTAGE = (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, OperationalError)


@dataclass(slots=True)
class WorkerShare:
    """What one worker did for this submission."""

    chunks: int = 0
    lines: int = 0
    busy_ms: int = 0


@dataclass(slots=True)
class Progress:
    """How far a submission is. The callback gets the same object after each change."""

    lines: int
    """Requests in the file."""
    resumed: int = 0
    """Requests whose results were in the files at the start."""
    succeeded: int = 0
    failed: int = 0
    chunks: int = 0
    chunks_in_flight: int = 0
    waits_for: str = ""
    """Why nothing goes on, in a sentence; empty while it does, or nobody knows why not."""
    usage: dict[str, int] = field(default_factory=dict)
    by_worker: dict[str, WorkerShare] = field(default_factory=dict)
    """Node name → what this worker did, as far as this process collected it; ``""``: chunks that no worker finished."""

    @property
    def done(self) -> int:
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class Summary:
    """How a submission ended."""

    out: Path
    errors: Path | None
    """``None`` if no line failed."""
    progress: Progress
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """True if every line succeeded."""
        return self.progress.failed == 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """What one task runs: a chunk without the lines that are done, or a line of a split chunk."""

    number: str
    """Its field in the state: the chunk's number, with the line's index if the chunk was split."""
    chunk: Chunk
    lines: tuple[Line, ...]
    task_id: str


def submit_file(
    app: Celery,
    path: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    url: str | None = None,
    errors: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    settings: Settings | None = None,
    queue: str = "dispatch",
    clock: Clock | None = None,
) -> Summary:
    """Run every line of the batch file ``path``; returns when each has a line in ``out`` or in ``errors``.

    ``model`` replaces the model of every line. ``errors`` is by default ``<out>.errors.jsonl``. After an interruption
    (Ctrl-C, a kill, an error) the same call with ``resume=True`` does the rest; if there is nothing to resume, it does
    everything.

    Raises :class:`InvalidBatch` with all mistakes of the file, :class:`Invalid` if a file cannot be used, and
    :class:`Unavailable` if Redis does not answer for a minute, or refuses what a submission needs.
    """
    settings = settings or Settings()
    batch = read_batch(Path(path), model=model, url=url)
    out = Path(out)
    errors = Path(errors) if errors else default_errors_path(out)
    if Path(path).resolve() in (out.resolve(), errors.resolve()):
        raise Invalid(f"{path} is the batch: results and errors must go to other files")
    custom_ids = frozenset(line.custom_id for line in batch.lines)
    files = ResultFiles(out, errors, resume=resume, custom_ids=custom_ids)
    redis_url = settings.redis_url or str(app.conf.broker_write_url or app.conf.broker_url)
    with files, connect(redis_url, options=tls_options(app.conf.broker_use_ssl)) as client:
        keys = Keys.of_broker(settings.cell, app.conf.broker_transport_options or {})
        submission = Submission(
            app, batch, files, SubmissionState(client, keys, out), settings=settings, model=model, url=url, queue=queue,
            progress=progress, clock=clock or SystemClock(),
        )  # fmt: skip
        return submission.run(resume=resume)


class Submission:
    """A batch file on its way. One thread drives it."""

    def __init__(
        self, app: Celery, batch: BatchFile, files: ResultFiles, state: SubmissionState, *, settings: Settings,
        model: str | None, url: str | None, queue: str, progress: Callable[[Progress], None] | None, clock: Clock,
    ) -> None:  # fmt: skip
        if isinstance(app.backend, DisabledBackend):
            raise Invalid("the Celery app has no result backend, so no result can come back: set result_backend")
        self._app = app
        self._batch = batch
        self._files = files
        self._state = state
        self._facts = PlanFacts(
            batch.digest, model, settings.chunk_tokens_max, settings.chunk_lines_max, url=url, estimator=ESTIMATOR
        )
        self._queue = queue
        self._report = progress or (lambda _: None)
        self._clock = clock
        self._to_send: deque[_InFlight] = deque()
        self._in_flight: dict[str, _InFlight] = {}
        self.progress = Progress(lines=len(batch.lines), resumed=len(files.succeeded) + len(files.failed))

    def run(self, *, resume: bool) -> Summary:
        """Send and collect until every line is in the files."""
        started_ms = last_answer_ms = last_moved_ms = self._clock.monotonic_ms()
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
                last_moved_ms = last_answer_ms if moved else last_moved_ms
                self._look_for_leader(last_answer_ms - last_moved_ms)
            except _OUTAGE as exc:
                moved = False
                cause = exc.__cause__ or exc
                if is_lasting(cause):
                    raise Unavailable(
                        f"Redis refuses what a submission needs ({sentence_of(cause)}): once that is put right, resume"
                    ) from exc
                if self._clock.monotonic_ms() - last_answer_ms > OUTAGE_MAX_S * 1000:
                    raise Unavailable(
                        f"Redis has not answered for {OUTAGE_MAX_S:.0f} s ({exc}): once it is back, resume"
                    ) from exc
            pause_s = _POLL_MIN_S if moved else min(pause_s * 1.5, _POLL_MAX_S)
            self._clock.sleep(pause_s)
        errors = self._files.errors if self._files.failed else None
        return Summary(self._files.out, errors, self.progress, (self._clock.monotonic_ms() - started_ms) / 1000)

    def step(self) -> bool:
        """Send some chunks if there is room, and collect those that are ready. Never waits; True if it did anything."""
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

    def _look_for_leader(self, idle_ms: int) -> None:
        """Say so where nothing has ended for ``idle_ms`` and no dispatcher leads."""
        said = self.progress.waits_for
        is_unled = idle_ms >= UNLED_AFTER_S * 1000 and self._state.is_unled(self._queue)
        self.progress.waits_for = _UNLED if is_unled else ""
        if self.progress.waits_for != said:
            self._report(self.progress)

    def _plan(self, *, resume: bool) -> None:
        """Fill ``_to_send`` and ``_in_flight`` from the file, the state in Redis, and what is in the result files."""
        facts, sent = self._state.load() if resume else (None, {})
        if facts is not None and facts.asked() != self._facts.asked():
            raise Invalid(
                f"{self._files.out} was begun with another input or model than {self._batch.path}, or another url: "
                "resume with the same, or name another --out"
            )
        if facts is not None and facts.estimator != self._facts.estimator:
            facts, sent = None, {}  # another version planned other chunks: what is not in the files is sent again
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
                part = _InFlight(number, chunk, missing, earlier.task_id if earlier else str(uuid.uuid4()))
                if earlier is not None and earlier.age_s is not None and earlier.age_s < lifetime_s:
                    self._in_flight[part.task_id] = part
                else:
                    self._to_send.append(part)

    @staticmethod
    def _parts(chunk: Chunk, sent: Mapping[str, SentChunk]) -> list[tuple[str, tuple[Line, ...]]]:
        """The chunk under its number; if it was split, each of its lines under a number of its own."""
        number = str(chunk.number)
        parts: list[tuple[str, tuple[Line, ...]]] = [(_part(number, line), (line,)) for line in chunk.lines]
        split = number not in sent and any(part in sent for part, _ in parts)
        return parts if split else [(number, chunk.lines)]

    def _send_next(self) -> None:
        part = self._to_send[0]
        chunk = part.chunk
        bodies = self._batch.bodies(list(part.lines))
        lines = [
            {"index": line.index, "custom_id": line.custom_id, "body": body}
            for line, body in zip(part.lines, bodies, strict=True)
        ]
        argument = {"model": chunk.model, "url": chunk.url, "lines": lines}
        if why := why_not_sent(argument, self._app.conf.task_serializer, self._state.message_bytes_max):
            self._refuse(part, why)
            self._to_send.popleft()
            return
        self._state.sending(part.number, part.task_id)
        # Otherwise Celery subscribes to each result, and Redis pushes to us what we read in bulk.
        with denied_join_result():
            self._app.send_task(
                TASK, args=[argument], queue=self._queue, task_id=part.task_id,
                headers=job_headers(model=chunk.model, cost=cost_s(part.lines)), add_to_parent=False,
                argsrepr=_shown(self._state.digest, part),
            )  # fmt: skip
        self._to_send.popleft()
        self._in_flight[part.task_id] = part
        self._state.sent(part.number, part.task_id)

    def _refuse(self, part: _InFlight, why: str) -> None:
        """The part cannot be sent: its lines are sent by themselves, or the only one fails."""
        if len(part.lines) > 1:
            self._split(part)
            return
        self._files.append([not_sent(line, self._state.digest, why) for line in part.lines])
        self._count()
        self._state.collected(part.number)

    def _ready(self, task_ids: list[str]) -> list[tuple[str, dict[str, Any]]]:
        """The tasks that have ended, each with Celery's record of it. One round trip if the backend can read many."""
        backend = self._app.backend
        if isinstance(backend, BaseKeyValueStoreBackend):
            values = backend.mget([backend.get_key_for_task(task_id) for task_id in task_ids])
            metas = [_record(backend, value) if value else None for value in values]
        else:
            metas = [backend.get_task_meta(task_id, cache=False) for task_id in task_ids]
        return [
            (task_id, meta)
            for task_id, meta in zip(task_ids, metas, strict=True)
            if meta is not None and meta["status"] in states.READY_STATES
        ]

    def _collect(self, part: _InFlight, meta: dict[str, Any]) -> None:
        if len(part.lines) > 1 and may_be_of_one_line(meta):
            self._split(part)
            self._app.backend.forget(part.task_id)
            return
        ended = outcome(meta, part.lines, self._state.digest)
        self._files.append(ended.lines)
        del self._in_flight[part.task_id]
        self._tally(ended)
        self._count()
        self._forget(part.number, part.task_id)  # last: until here an interruption loses nothing

    def _split(self, whole: _InFlight) -> None:
        """Send each line by itself of a chunk that failed, or cannot be sent, for what one of them may be: only the
        guilty line fails.

        Not in halves: each half that kills costs more workers, and sending a line costs next to nothing.
        """
        parts = [_InFlight(_part(whole.number, line), whole.chunk, (line,), str(uuid.uuid4())) for line in whole.lines]
        self._state.split(whole.number, [(part.number, part.task_id) for part in parts])
        self._in_flight.pop(whole.task_id, None)
        self._to_send.extend(parts)
        self.progress.chunks += len(parts) - 1
        self._count()

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


def _record(backend: BaseKeyValueStoreBackend, value: Any) -> dict[str, Any]:
    """What Celery stored of a task. A record that cannot be read is a failure: reading it again, now or when the
    submission is resumed, would not help.
    """
    try:
        record: dict[str, Any] = backend.decode_result(value)
        return {"status": record["status"], "result": record["result"]}
    except Exception as exc:  # noqa: BLE001  # of JSON, of kombu's serializers, or of the error that the record holds
        said = f"its result cannot be read: {type(exc).__name__}: {exc}"
        return {"status": states.FAILURE, "result": Unreadable(said)}


def _shown(digest: str, part: _InFlight) -> str:
    """What logs, task events and Flower show for the arguments of a chunk: by itself Celery shows the users' text."""
    return f"(batch_{digest[:12]}, chunk {part.number}, {len(part.lines)} lines)"


def _part(number: str, line: Line) -> str:
    """The name of a line of a split chunk in the state."""
    return f"{number}.{line.index}"
