"""The decision log: for the jobs that were assigned last, which worker each went to, and why.

It is a Redis stream with one entry per tick. An entry's id is the number of jobs logged before it, so one command
appends the entry and drops (``MINID``) the entries that have become too old: at most ``decisions_kept`` jobs are kept,
however many a tick has. A job stands in the log twice: with its task id where it was admitted (the leader has the id in
hand there, and need not read a message for it), and with its frame where it was assigned. Both are kept as they come
from the scripts, so logging costs a few µs a tick and next to nothing a job. To look up a job, ``dispatcher explain``
searches the whole log. The log is only shown, never acted on. Ticks that a killed leader had not yet written are
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import msgspec
import redis

from dispatcher.store.frame import FRAME_BYTES, Entry, parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import if_of_its_type

DECISIONS_LIFETIME_MS: Final = 24 * 3600 * 1000
PAGE: Final = 200

_Page = list[tuple[bytes, dict[bytes, bytes]]] | None


class Given(msgspec.Struct, frozen=True, array_like=True):
    """Jobs that one worker got."""

    worker: str
    epoch: str
    jobs: int
    """How many."""
    score: float
    """The score of the first of these jobs on that worker."""


class Ranked(msgspec.Struct, frozen=True, array_like=True):
    """One worker as the lane's next job saw it before the tick placed anything."""

    worker: str
    score: float
    terms: dict[str, float]
    full: bool = False


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Jobs of one lane went to workers."""

    at_ms: int
    lane: str
    given: list[Given]
    frames: str
    """The frames of the jobs, end to end, in the order they were given."""
    strategy: str
    ranking: list[Ranked] = []
    """The best few workers. Left empty, like ``refused``, if the entry would become too large."""
    refused: dict[str, tuple[int, str]] = {}
    """Filter → how many workers it refused, and an example."""


class Tick(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the log."""

    admitted: list[tuple[int, list[str]]] = []
    """Number of the first job of a batch, and the task ids of the batch; the jobs' numbers follow one another."""
    decisions: list[Decision] = []


@dataclass(frozen=True, slots=True)
class LoggedAssignment:
    """One decision about one job."""

    entry: Entry
    given: Given
    decision: Decision


class DecisionStore:
    """Looks up jobs in the log of one cell. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._key = keys.decisions

    def find(self, task_id: str, jobs: Sequence[str] = ()) -> tuple[list[str], list[LoggedAssignment]]:
        """The numbers of the jobs with that task id, and the decisions about them and about ``jobs``; both in order of
        time.
        """
        ticks = self._read()
        quoted = msgspec.json.encode(task_id)
        numbers = [*jobs]
        for tick in (decode_tick(raw) for raw in ticks if quoted in raw):
            for first, ids in tick.admitted:
                numbers += [str(first + at) for at, admitted_id in enumerate(ids) if admitted_id == task_id]
        numbers = sorted(set(numbers))
        needles = [number.encode() for number in numbers]
        assignments: list[LoggedAssignment] = []
        for raw in ticks:
            if any(needle in raw for needle in needles):
                tick = decode_tick(raw)
                for decision in tick.decisions:
                    assignments += [
                        LoggedAssignment(entry, given, decision)
                        for number in numbers
                        for entry, given in _assignments(decision, number)
                    ]
        return numbers, assignments

    def _read(self) -> list[bytes]:
        ticks: list[bytes] = []
        start: Any = "-"
        while page := cast("_Page", if_of_its_type(partial(self._client.xrange, self._key, min=start, count=PAGE))):
            ticks += [fields.get(b"tick", b"") for _, fields in page]
            start = b"(" + page[-1][0]
        return ticks


def decode_tick(raw: bytes) -> Tick:
    """A tick from its JSON; an empty tick if another version wrote it."""
    try:
        return msgspec.json.decode(raw, type=Tick)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Tick()


def _assignments(decision: Decision, number: str) -> list[tuple[Entry, Given]]:
    """The job's entry and the worker it went to: one pair, or none if the decision is about other jobs."""
    jobs = len(decision.frames) // FRAME_BYTES
    if jobs * FRAME_BYTES != len(decision.frames):
        return []  # frames of another version
    frames = [decision.frames[at * FRAME_BYTES : (at + 1) * FRAME_BYTES] for at in range(jobs)]
    owners = [given for given in decision.given for _ in range(min(given.jobs, jobs))]
    try:
        return [
            (parse_entry(frame + decision.lane), given) for frame, given in zip(frames, owners, strict=False) if frame.startswith(number)
        ]
    except ValueError:
        return []
