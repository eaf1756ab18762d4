"""What is kept of a job beside its message: the Python side of ``lua/_entry.lua``."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_BYTES = 46


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame and the lane it belongs to.

    ``job`` is the job number (16 digits, unique in the cell, ordered by admission); ``crashes``, ``rejects``, ``reaps`` and
    ``recalls`` count how often the job came back, by cause, up to 99.
    """

    job: str
    admitted_ms: int
    cost_ms: int
    crashes: int
    rejects: int
    reaps: int
    recalls: int
    lane: str

    @property
    def attempts(self) -> int:
        """How often a worker started the job before and did not end it."""
        return self.crashes + self.rejects + self.reaps


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
        lane=text[FRAME_BYTES:],
    )

