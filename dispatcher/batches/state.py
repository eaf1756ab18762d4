"""The state of a submission in Redis, by which another process can finish it: facts of its plan, and chunks' task ids.

It is a hash. The field ``plan`` holds the facts in JSON. Each chunk has a field ``<number>``: ``<task id>`` while the
chunk is being sent, ``<task id> <Redis time in s>`` once it is sent. A chunk that was split has a field for each of its
lines instead, ``<number>.<index>``. If the hash is lost, no result is: the files say what is done, and the rest is sent
again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import redis

from dispatcher.store.keys import Keys

LIFETIME_S = 30 * 24 * 3600
MESSAGE_BYTES_MAX = 512 * 1024 * 1024
"""What Redis takes as one value, unless ``proto-max-bulk-len`` says otherwise."""


class PlanFacts(msgspec.Struct, frozen=True):
    """All that the chunks depend on: with equal facts, a later process plans the same chunks."""

    input_sha256: str
    """Of the batch file, in hex."""
    model: str | None
    """The model that replaces every line's; ``None`` if none does."""
    tokens_max: int
    """Padded tokens in a chunk."""
    lines_max: int
    """Lines in a chunk."""
    url: str | None = None
    """The URL of lines that name none; ``None`` where their bodies tell it."""
    estimator: int = 1
    """The way in which tokens were estimated (:data:`dispatcher.batches.tokens.ESTIMATOR`)."""

    def asked(self) -> tuple[str, str | None, str | None]:
        """What the user asked for, which a resumed submission must not change."""
        return self.input_sha256, self.model, self.url


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A chunk, or a line of a split chunk, that has a task id."""

    task_id: str
    age_s: int | None
    """How long ago it was sent; ``None`` if the process may have died before it sent it."""


def digest_of(out: Path) -> str:
    """The name of a submission: a digest of the absolute path of its results on this machine."""
    return hashlib.blake2b(str(out.resolve()).encode(), digest_size=16).hexdigest()


class SubmissionState:
    """The hash of a submission. Every method raises Redis' errors as they are; the caller may try again."""

    def __init__(self, client: redis.Redis, keys: Keys, out: Path) -> None:
        self.digest = digest_of(out)
        self._client = client
        self._keys = keys
        self._key = keys.submission(self.digest)
        self._message_bytes_max = 0

    def load(self) -> tuple[PlanFacts | None, dict[str, SentChunk]]:
        """The state that an earlier process left; ``(None, {})`` if there is none, or it cannot be read."""
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
        """Forget the old state, and note the plan."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(self._key)
            pipe.hset(self._key, "plan", msgspec.json.encode(facts).decode())
            pipe.expire(self._key, LIFETIME_S)
            pipe.execute()

    def sending(self, number: str, task_id: str) -> None:
        """Note the task id before the message is sent, so that a result that exists can always be found."""
        self._client.hset(self._key, number, task_id)

    def sent(self, number: str, task_id: str) -> None:
        """Note that the message is in the queue."""
        self._client.hset(self._key, number, f"{task_id} {self._now_s()}")

    def split(self, number: str, parts: Iterable[tuple[str, str]]) -> None:
        """Note that a chunk is sent in parts from now on: (number, task id) of each."""
        with self._client.pipeline(transaction=True) as pipe:
            for part in parts:
                pipe.hset(self._key, *part)
            pipe.hdel(self._key, number)
            pipe.execute()

    def collected(self, number: str) -> None:
        """Forget the chunk: its lines are in the files. If they vanish from there, the chunk is sent again."""
        self._client.hdel(self._key, number)

    def finish(self) -> None:
        """Forget the submission: all its lines are in the files."""
        self._client.delete(self._key)

    def message_bytes_max(self) -> int:
        """The largest message that Redis takes. Asked once."""
        if not self._message_bytes_max:
            limits: dict[str, Any] = {}
            with contextlib.suppress(redis.ResponseError):  # most managed servers show no options
                limits = cast("dict[str, Any]", self._client.config_get("proto-max-bulk-len"))
            self._message_bytes_max = int(limits.get("proto-max-bulk-len", MESSAGE_BYTES_MAX))
        return self._message_bytes_max

    def is_unled(self, queue: str) -> bool:
        """True if no dispatcher leads the cell, and one did before, or what was sent to ``queue`` lies there. Where
        neither is so, workers of plain Celery consume it.
        """
        with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(self._keys.leader)
            pipe.exists(self._keys.leader_info)
            pipe.exists(*self._keys.ingress(queue))
            leads, has_led, waits = pipe.execute()
        return not leads and bool(has_led or waits)

    def _now_s(self) -> int:
        return int(self._client.time()[0])
