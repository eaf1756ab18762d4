"""What a submission keeps in Redis so that another process can finish it: the plan's facts, and each chunk's task id.

Fields of the hash: ``plan`` (JSON), and one a chunk, ``<number>``: ``<task id>`` while it is being sent,
``<task id> <Redis time in s>`` once it is sent. A chunk that was split has instead a field for each of its lines,
``<number>.<index>``. Losing the hash loses no result: the files say what is done, and the
rest is sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import redis

from dispatcher.store.keys import Keys

LIFETIME_S = 30 * 24 * 3600


class PlanFacts(msgspec.Struct, frozen=True):
    """What must be equal for the chunks to be the same again."""

    input_sha256: str
    model: str | None
    tokens_max: int
    lines_max: int


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A chunk that was given a task id. ``age_s`` is ``None`` when it is not known whether it was sent."""

    task_id: str
    age_s: int | None


def digest_of(out: Path) -> str:
    """Names a submission by the absolute path of its results on this machine."""
    return hashlib.blake2b(str(out.resolve()).encode(), digest_size=16).hexdigest()


class SubmissionState:
    """The hash of one submission. Redis' errors rise as they are: whoever calls knows whether to try again."""

    def __init__(self, client: redis.Redis, keys: Keys, out: Path) -> None:
        self.digest = digest_of(out)
        self._client = client
        self._key = keys.submission(self.digest)

    def load(self) -> tuple[PlanFacts | None, dict[str, SentChunk]]:
        """What an earlier process left; ``(None, {})`` when there is nothing, or nothing that can be read."""
        fields = cast("dict[str, str]", self._client.hgetall(self._key))
        try:
            facts = msgspec.json.decode(fields.pop("plan", ""), type=PlanFacts)
        except msgspec.MsgspecError:
            return None, {}
        now_s = self._now_s()
        chunks = {}
        for number, text in fields.items():
            task_id, _, sent_at_s = text.partition(" ")
            chunks[number] = SentChunk(task_id, now_s - int(sent_at_s) if sent_at_s else None)
        return facts, chunks

    def begin(self, facts: PlanFacts) -> None:
        """Forget what was there, and note the plan."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(self._key)
            pipe.hset(self._key, "plan", msgspec.json.encode(facts).decode())
            pipe.expire(self._key, LIFETIME_S)
            pipe.execute()

    def sending(self, number: str, task_id: str) -> None:
        """Note the id before the message goes out: a result that exists can always be found."""
        self._client.hset(self._key, number, task_id)

    def sent(self, number: str, task_id: str) -> None:
        """Note that the message is in the queue."""
        self._client.hset(self._key, number, f"{task_id} {self._now_s()}")

    def split(self, number: str, parts: Iterable[tuple[str, str]]) -> None:
        """Note that a chunk is to be sent in parts instead, each with its number and task id."""
        with self._client.pipeline(transaction=True) as pipe:
            for part in parts:
                pipe.hset(self._key, *part)
            pipe.hdel(self._key, number)
            pipe.execute()

    def collected(self, number: str) -> None:
        """Note that the chunk's lines are in the files: should they vanish from there, it must be sent anew."""
        self._client.hdel(self._key, number)

    def finish(self) -> None:
        """Everything is in the files: nothing is left to know."""
        self._client.delete(self._key)

    def _now_s(self) -> int:
        return int(self._client.time()[0])
