"""The record of a job that is kept beside its message: the Python side of ``lua/_entry.lua``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

FRAME_BYTES = 59
NEW = "00000000" + "0" * 13
"""The part of a frame behind its cost, for a job that never came back and has no deadline."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame, and the lane that its job belongs to."""

    job: str
    """The job number: 16 digits, unique in the cell, in order of admission."""
    admitted_ms: int
    cost_ms: int
    crashes: int
    """How often the job came back because its process died. Like the next three, up to 99."""
    rejects: int
    """How often its task asked to go back, or its worker left in order."""
    reaps: int
    """How often its worker died."""
    recalls: int
    """How often it came back before it had begun."""
    deadline_ms: int
    """Redis' time from which on the job may not begin any more; 0: none."""
    lane: str

    @property
    def deaths(self) -> int:
        """How often the job's worker, or its process there, died while it ran."""
        return self.crashes + self.reaps


def parse_entry(text: str) -> Entry:
    """The entry from its text. ``lane`` is empty for a bare frame, as lanes hold them."""
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
    """The cost in ms, of an entry or of a bare frame."""
    return int(entry[29:38])


def began_before(entry: bytes) -> bool:
    """True if a worker began the job before: crashes, rejects and reaps are not all zero."""
    return entry[38:44] != b"000000"


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
    """A JSON object that is kept of a job, such as the reason of its burial; empty if anything else lies there.

    ``admit`` writes the reason with task and ingress by name, other scripts write it with the job's entry.
    """
    try:
        record = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def story_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs in the record of a burial, the oldest first."""
    story = record.get("story")
    return [run for run in story if isinstance(run, dict)] if isinstance(story, list) else []
