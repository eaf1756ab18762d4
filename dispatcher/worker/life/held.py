"""A job that a worker has: from when it was taken until it is acked or given back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dispatcher.core.facts.lane import parse_lane
from dispatcher.store.frame import lane_of


class Outcome(Enum):
    """How a started job ended here."""

    DONE = "done"
    FAILED = "failed"
    RETRIED = "retried"
    REJECTED = "rejected"
    """It went back in line because its task asked for that: neither done nor failed."""


@dataclass(slots=True)
class Held:
    """A job this worker has taken: the message as the producer sent it, what is kept of the job, when its task began (or not), and
    in which process.

    ``guessed``: its producer said no cost, so that the one in its entry is the dispatcher's guess.
    """

    message: bytes
    entry: bytes
    started_ms: int | None = None
    guessed: bool = False
    pid: int = 0

    @property
    def runs_again(self) -> bool:
        """Whether a worker started it before: crashes, rejects and reaps are not all zero."""
        return self.entry[38:44] != b"000000"

    @property
    def is_suspect(self) -> bool:
        """Whether it runs alone, for it may be what killed its workers."""
        return parse_lane(lane_of(self.entry)).alone

    @property
    def task(self) -> str:
        """The name of its task."""
        return parse_lane(lane_of(self.entry)).task

    @property
    def model(self) -> str:
        """The model that it was resolved to; ``default`` where it asked for none."""
        return parse_lane(lane_of(self.entry)).model
