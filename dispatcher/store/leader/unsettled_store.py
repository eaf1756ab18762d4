"""Dead letters whose FAILURE is not in the result backend yet."""

from __future__ import annotations

from typing import Any

import redis

from dispatcher.store.frame import read_record
from dispatcher.store.keys import Keys


class UnsettledStore:
    """The dead letters that one dispatcher settles while it leads. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self._client = client
        self._keys = keys
        self._token = token.encode()

    def some(self, limit: int) -> list[tuple[str, bytes | None, dict[str, Any]]]:
        """(job number, raw message, reason record) of dead letters whose FAILURE is not stored yet, at most ``limit``.

        Empty unless this dispatcher leads: two dispatchers would tell each canvas twice.
        """
        with self._client.pipeline() as pipe:
            pipe.get(self._keys.leader)
            pipe.srandmember(self._keys.unsettled, limit)
            leader, jobs = pipe.execute()
        if not jobs or leader != self._token:
            return []
        with self._client.pipeline() as pipe:
            pipe.hmget(self._keys.messages, jobs)
            pipe.hmget(self._keys.dead_reasons, jobs)
            messages, reasons = pipe.execute()
        return [
            (job.decode(errors="surrogateescape"), message, read_record(reason))
            for job, message, reason in zip(jobs, messages, reasons, strict=True)
        ]

    def settled(self, job: str) -> None:
        """Note that the FAILURE of this dead letter is stored. Needs no lead: a job's number is never used again."""
        self._client.srem(self._keys.unsettled, job.encode(errors="surrogateescape"))
