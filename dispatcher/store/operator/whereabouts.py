"""Finds out where a job is now, by its task id. Slow on purpose: nothing is indexed for it, and no call blocks Redis
for long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, cast

import redis

from dispatcher.core.facts.message import headers_of, task_id_of
from dispatcher.store.frame import Entry, parse_entry, read_record, story_of
from dispatcher.store.keys import Keys, text_names
from dispatcher.store.redis_client.connection import if_of_its_type, replies_of_its_type
from dispatcher.store.scripts.call import Scripts
from dispatcher.store.worker.revoke_store import id_members, stamp_members

MESSAGES_A_CALL: Final = 100
FRAMES_A_CALL: Final = 1_000
INGRESS_LOOKED_AT: Final = 20_000
"""Messages of each ingress list that are searched. Jobs behind them wait for the dispatcher, not for a worker."""

TRIES: Final = 3
"""A job may move during a search, so a search is repeated."""


@dataclass(frozen=True, slots=True)
class InIngress:
    """The job has not been admitted."""

    list_key: str
    before: int
    """Messages of this list that are admitted first."""
    message: bytes


@dataclass(frozen=True, slots=True)
class InLane:
    """The job waits in its lane."""

    entry: Entry
    before: int
    """Jobs of the lane that are served first."""
    depth: int
    """Jobs of the lane."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The job is not due yet."""

    entry: Entry
    due_ms: int


@dataclass(frozen=True, slots=True)
class Leased:
    """The job is leased to a worker."""

    entry: Entry
    epoch: str
    taken_ms: int
    """When the worker started it; 0: it has not."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The job is a dead letter."""

    reason: str
    detail: str
    died_ms: int
    story: list[dict[str, Any]]


Whereabouts = InIngress | InLane | Scheduled | Leased | Dead


class Finder:
    """Finds jobs of one cell. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._run = Scripts(client)

    def now_ms(self) -> int:
        """Redis' clock."""
        seconds, micros = self._client.time()
        return seconds * 1000 + micros // 1000

    def task_id(self, job: str) -> str | None:
        """The task id of a job in keeping; ``None`` if the job is not in keeping, or its message cannot be read."""
        raw = self.message(job)
        return None if raw is None else task_id_of(raw)

    def jobs_of(self, task_id: str) -> list[str]:
        """Numbers of the jobs in keeping that have this task id, the oldest first. Searches every message."""
        for text in _plain_parts(task_id):
            if numbers := self._jobs_with(text, task_id):
                return sorted(numbers)
        return []

    def _jobs_with(self, text: str, task_id: str) -> set[str]:
        numbers: set[str] = set()
        cursor: Any = b"0"
        while True:
            cursor, *jobs = self._run("find_job", [self._keys.messages], [cursor, text, MESSAGES_A_CALL])
            numbers |= {job.decode() for job in jobs if self.task_id(job.decode()) == task_id}
            if cursor == b"0":
                return numbers

    def in_ingress(self, task_id: str, lists: Sequence[str]) -> InIngress | None:
        """The place of the first message with that task id."""
        texts = [text.encode() for text in _plain_parts(task_id)]
        for key in lists:
            for before in range(0, INGRESS_LOOKED_AT, MESSAGES_A_CALL):
                page = cast("list[bytes]", self._client.lrange(key, -before - MESSAGES_A_CALL, -before - 1))
                for at, raw in enumerate(reversed(page)):
                    if any(text in raw for text in texts) and task_id_of(raw) == task_id:
                        return InIngress(key, before + at, raw)
                if len(page) < MESSAGES_A_CALL:
                    break
        return None

    def where(self, job: str) -> Whereabouts | None:
        """Where a job in keeping is; ``None`` if it is nowhere any more."""
        for _ in range(TRIES):
            place = self._leased(job) or self._in_lane(job) or self._scheduled(job) or self._dead(job)
            if place is not None or not self._client.hexists(self._keys.messages, job):
                return place
        return None

    def _leased(self, job: str) -> Leased | None:
        keys, number = self._keys, job.encode()
        for epoch in sorted(name.decode() for name in cast("set[bytes]", self._client.smembers(keys.workers))):
            for lease, entry in cast("dict[bytes, bytes]", self._client.hgetall(keys.leases(epoch))).items():
                if entry.startswith(number):
                    taken = cast("bytes | None", self._client.hget(keys.taken(epoch), lease.decode()))
                    return Leased(parse_entry(entry.decode()), epoch, int(taken or 0))
        return None

    def _in_lane(self, job: str) -> InLane | None:
        keys, number = self._keys, job.encode()
        for lane in sorted(name.decode() for name in cast("set[bytes]", self._client.smembers(keys.lanes))):
            before = 0
            while page := cast("list[bytes]", self._client.lrange(keys.lane(lane), before, before + FRAMES_A_CALL - 1)):
                for at, frame in enumerate(page):
                    if frame.startswith(number):
                        return InLane(parse_entry(frame.decode() + lane), before + at, self._client.llen(keys.lane(lane)))
                before += len(page)
        return None

    def _scheduled(self, job: str) -> Scheduled | None:
        for entry, due_ms in self._client.zscan_iter(self._keys.scheduled, match=f"{job}*", count=FRAMES_A_CALL):
            return Scheduled(parse_entry(entry.decode()), int(due_ms))
        return None

    def _dead(self, job: str) -> Dead | None:
        died_ms = self._client.zscore(self._keys.dead_letters, job)
        if died_ms is None:
            return None
        text = cast("bytes | None", self._client.hget(self._keys.dead_reasons, job))
        record = read_record(text)
        return Dead(str(record.get("reason", "")), str(record.get("detail", "")), int(died_ms), story_of(record))

    def revoked_ms(self, task_id: str, message: bytes | None) -> int | None:
        """When the job was revoked, by its id or a stamp in its message; ``None`` if it was not, or nobody remembers."""
        headers = headers_of(message)
        names, stamps = headers.get("stamped_headers"), headers.get("stamps")
        stamped: dict[str, Any] = {}
        if isinstance(names, list) and isinstance(stamps, dict):
            stamped = {name: stamps.get(name) for name in names if isinstance(name, str)}
        members = sorted(text_names([*id_members([task_id]), *stamp_members(stamped)]))
        with self._client.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.zscore(self._keys.revoked, member)
            scores = replies_of_its_type(pipe)
        return min((int(score) // 1000 for score in scores if score is not None and isfinite(score)), default=None)

    def message(self, job: str) -> bytes | None:
        """The message of a job in keeping."""
        return cast("bytes | None", self._client.hget(self._keys.messages, job))

    def story(self, job: str) -> list[dict[str, Any]]:
        """The runs of a job in keeping that ended with their worker or process, the oldest first."""
        lines = cast("list[bytes] | None", if_of_its_type(lambda: self._client.lrange(self._keys.story(job), 0, -1))) or ()
        return [record for line in lines if (record := read_record(line))]


def _plain_parts(task_id: str) -> list[str]:
    """Texts one of which stands in the job's message.

    The longest part of the id that every JSON writes alike, since a producer may escape other characters; and where it
    is a UUID its digits, which kombu writes for an id that is no text.
    """
    longest = max(re.findall(r"[\w .@:-]+", task_id, re.ASCII), key=len, default="")
    is_uuid = re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", task_id)
    return [longest, task_id.replace("-", "")] if is_uuid else [longest]
