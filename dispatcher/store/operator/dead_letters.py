"""Dead letters: jobs that were refused or given up. An operator lists them, sends them back, or forgets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import redis

from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.message import headers_of
from dispatcher.errors import Invalid
from dispatcher.store.frame import Entry, parse_entry, read_record, story_of
from dispatcher.store.keys import Keys, lane_ingress
from dispatcher.store.scripts.call import Scripts

CALL_MAX: Final = 500
"""Reasons that one command reads."""

MESSAGE_READ_BYTES_MAX: Final = 1024 * 1024
"""A larger message is not read for its task id."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was refused, or given up."""

    job: str
    """Its number."""
    reason: str
    detail: str
    task: str | None
    task_id: str | None
    ingress: str | None
    """The queue it was sent to."""
    died_s_ago: float
    """Seconds since its burial, by Redis' clock."""
    story: list[dict[str, Any]] = field(default_factory=list)
    """Each run that ended with its worker or process: ``worker``, ``epoch``, ``how``, ``alone``, and when it began and
    ended.
    """


class DeadLetters:
    """The dead letters of one cell. ``client`` answers with text; ``ingress_queues`` gives all known queues."""

    def __init__(self, client: redis.Redis, keys: Keys, ingress_queues: Callable[[], set[str]]) -> None:
        self._client = client
        self._keys = keys
        self._ingress_queues = ingress_queues
        self._run = Scripts(client)

    def list(self, limit: int = 100) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        keys = self._keys
        deaths = cast("list[tuple[str, float]]", self._client.zrange(keys.dead_letters, 0, limit - 1, desc=True, withscores=True))
        if not deaths:
            return []
        jobs = [job for job, _ in deaths]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hmget(keys.dead_reasons, jobs)
            for job in jobs:
                pipe.hstrlen(keys.messages, job)
            (seconds, micros), records, *sizes = pipe.execute()
            now_ms = seconds * 1000 + micros // 1000
            for job, size in zip(jobs, sizes, strict=True):
                pipe.hget(keys.messages, job if 0 < size <= MESSAGE_READ_BYTES_MAX else "")
            messages = pipe.execute()
        return [
            _dead_letter(job, record, message, (now_ms - died_ms) / 1000)
            for (job, died_ms), record, message in zip(deaths, records, messages, strict=True)
        ]

    def requeue(self, jobs: Sequence[str] | None = None) -> int:
        """Send dead letters back to the queues they came from; ``None``: all. Returns how many of ``jobs`` were dead
        letters.
        """
        return self._end(jobs, "requeue")

    def purge(self, jobs: Sequence[str] | None = None) -> int:
        """Forget dead letters; ``None``: all. Returns how many of ``jobs`` were dead letters."""
        return self._end(jobs, "purge")

    def _end(self, jobs: Sequence[str] | None, action: str) -> int:
        keys = self._keys
        if jobs is None:
            jobs = cast("Sequence[str]", self._client.zrange(keys.dead_letters, 0, -1))
        ended = 0
        for at in range(0, len(jobs), CALL_MAX):
            batch = [*jobs[at : at + CALL_MAX]]
            records = cast("Sequence[str | None]", self._client.hmget(keys.dead_reasons, batch))
            for job, record in zip(batch, records, strict=True):
                names = [keys.dead_letters, keys.dead_reasons, keys.unsettled, keys.messages, self._ingress_of(record)]
                ended += int(self._run("requeue_dead", names, [job, action]))
        return ended

    def _ingress_of(self, text: str | None) -> str:
        """The ingress list that the job came from, as the record of its burial says."""
        record = read_record(text)
        if (entry := _entry(record)) is not None:
            return lane_ingress(self._keys, entry.lane)
        queue = _text(record.get("ingress")) or min(self._ingress_queues(), default="dispatch")
        step, steps = record.get("step", 0), self._keys.priority_steps
        return self._keys.ingress(queue)[steps.index(step) if step in steps else 0]


def _entry(record: dict[str, Any]) -> Entry | None:
    text = record.get("entry")
    try:
        entry = parse_entry(text) if isinstance(text, str) else None
        if entry is not None:
            parse_lane(entry.lane)
    except (Invalid, ValueError):
        return None
    return entry


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _dead_letter(job: str, text: str | None, message: str | None, died_s_ago: float) -> DeadLetter:
    record = read_record(text)
    entry = _entry(record)
    lane = parse_lane(entry.lane) if entry is not None else None
    task_id = record.get("task_id") or headers_of(message).get("id")
    return DeadLetter(
        job=job,
        reason=str(record.get("reason", "")),
        detail=str(record.get("detail", "")),
        task=lane.task if lane is not None else _text(record.get("task")),
        task_id=_text(task_id),
        ingress=lane.ingress if lane is not None else _text(record.get("ingress")),
        died_s_ago=round(died_s_ago, 3),
        story=story_of(record),
    )
