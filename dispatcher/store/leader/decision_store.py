"""The decision log: which job went to which worker and why, of the last jobs that were assigned.

A Redis stream. An entry is what one tick did; its id is the count of jobs logged before it, so that one command appends it and drops
(``MINID``) what has become too old: at most ``decisions_kept`` jobs are kept, however many to a tick. A job stands in it twice: with its
task id where it was admitted (the leader has that in hand there, and need not read a message for it), and as its frame where it was
assigned. Both are kept as they come from the scripts, so that logging costs a few µs a tick and next to nothing a job; to look a job up
means to search all of it, which is for ``dispatcher explain`` to do. It is for the eye: nothing is decided by it, and what a leader that
is killed had not written yet is missing.
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
    """``score``: what the first of the ``jobs`` scored on that worker."""

    worker: str
    epoch: str
    jobs: int
    score: float


class Ranked(msgspec.Struct, frozen=True, array_like=True):
    """One worker as the lane's next job saw it before the tick placed anything."""

    worker: str
    score: float
    terms: dict[str, float]
    full: bool = False


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Jobs of one lane went to workers. ``frames``: the jobs, end to end, in the order they were given. ``ranking``: the best few
    workers; ``refused``: filter → how many it kept out, and an example. Both are empty where there was too much to tell.
    """

    at_ms: int
    lane: str
    given: list[Given]
    frames: str
    strategy: str
    ranking: list[Ranked] = []
    refused: dict[str, tuple[int, str]] = {}


class Tick(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry. ``admitted``: number of the first job → task ids of it and of those whose numbers follow."""

    admitted: list[tuple[int, list[str]]] = []
    decisions: list[Decision] = []


@dataclass(frozen=True, slots=True)
class LoggedAssignment:
    """One decision about one job."""

    entry: Entry
    given: Given
    decision: Decision


class DecisionStore:
    """The log of one cell, to look jobs up in. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._key = keys.decisions

    def find(self, task_id: str, jobs: Sequence[str] = ()) -> tuple[list[str], list[LoggedAssignment]]:
        """(numbers that jobs of that task id got, what was decided about them and about ``jobs``), both in order of time."""
        ticks = self._read()
        quoted = msgspec.json.encode(task_id)
        numbers = [*jobs]
        for tick in (decode_tick(raw) for raw in ticks if quoted in raw):
            for first, ids in tick.admitted:
                numbers += [str(first + at) for at, one in enumerate(ids) if one == task_id]
        numbers = sorted(set(numbers))
        needles = [number.encode() for number in numbers]
        found: list[LoggedAssignment] = []
        for raw in ticks:
            if any(needle in raw for needle in needles):
                tick = decode_tick(raw)
                for decision in tick.decisions:
                    found += [
                        LoggedAssignment(entry, given, decision)
                        for number in numbers
                        for entry, given in _assignments(decision, number)
                    ]
        return numbers, found

    def _read(self) -> list[bytes]:
        found: list[bytes] = []
        start: Any = "-"
        while page := cast("_Page", if_of_its_type(partial(self._client.xrange, self._key, min=start, count=PAGE))):
            found += [facts.get(b"tick", b"") for _, facts in page]
            start = b"(" + page[-1][0]
        return found


def decode_tick(raw: bytes) -> Tick:
    """A tick as it was; an empty one where another version wrote it."""
    try:
        return msgspec.json.decode(raw, type=Tick)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Tick()


def _assignments(decision: Decision, number: str) -> list[tuple[Entry, Given]]:
    """Where in a decision a job stands: nowhere, or once."""
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
