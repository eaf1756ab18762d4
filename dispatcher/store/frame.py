"""What is kept of a job beside its message: the Python side of ``lua/_entry.lua``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

FRAME_BYTES = 59
NEW = "00000000" + "0" * 13
"""What a frame has after its cost while the job never came back and has no deadline."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame and the lane it belongs to.

    ``job`` is the job number (16 digits, unique in the cell, ordered by admission); ``crashes``, ``rejects``, ``reaps`` and
    ``recalls`` count how often the job came back, by cause, up to 99. ``deadline_ms`` is the Redis time at which it may not begin any
    more, 0 for never.
    """

    job: str
    admitted_ms: int
    cost_ms: int
    crashes: int
    rejects: int
    reaps: int
    recalls: int
    deadline_ms: int
    lane: str

    @property
    def attempts(self) -> int:
        """How often a worker started the job before and did not end it."""
        return self.crashes + self.rejects + self.reaps

    @property
    def deaths(self) -> int:
        """How often its worker, or its process there, died while it ran."""
        return self.crashes + self.reaps


def parse_entry(text: str) -> Entry:
    """The entry that a script returned. ``lane`` is empty for a bare frame, as lanes hold them."""
    return Entry(
        job=text[0:16],
        admitted_ms=int(text[16:29]),
        cost_ms=int(text[29:38]),
        crashes=int(text[38:40]),
        rejects=int(text[40:42]),
        reaps=int(text[42:44]),
        recalls=int(text[44:46]),
        deadline_ms=int(text[46:59]),
        lane=text[FRAME_BYTES:],
    )


def cost_of(entry: bytes) -> int:
    """The cost in ms; of an entry or of a bare frame."""
    return int(entry[29:38])


def lane_of(entry: bytes) -> str:
    """The name of the lane."""
    return entry[FRAME_BYTES:].decode()


def new_until(deadline_ms: int) -> str:
    """:data:`NEW` for a job that has a deadline."""
    return f"00000000{deadline_ms:013d}"


def deadline_of(frame: bytes) -> int:
    """The deadline in ms, 0 for none."""
    return int(frame[46:59])


def read_record(text: str | bytes | None) -> dict[str, Any]:
    """A JSON object that is kept of a job, empty for whatever else lies there. Why it was buried: by admit (task and ingress by name), or
    by giveback (its entry).
    """
    try:
        record = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def story_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that a reason record tells of, the oldest first."""
    story = record.get("story")
    return [one for one in story if isinstance(one, dict)] if isinstance(story, list) else []
