"""A job that a worker has: from when it was taken until it is acked or given back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dispatcher.core.facts.lane import parse_lane
from dispatcher.store.frame import began_before, lane_of


class Outcome(Enum):
    """How a started job ended here."""

    DONE = "done"
    FAILED = "failed"
    RETRIED = "retried"
    REJECTED = "rejected"
    """It went back in line because its task asked for that: neither done nor failed."""
    IGNORED = "ignored"
    """Its task, or a hook of it, raised ``Ignore``: it is over, and says nothing of how it went."""


@dataclass(slots=True)
class Held:
    """A job that this worker has taken and not ended."""

    message: bytes
    """The message as the producer sent it."""
    entry: bytes
    """What is kept of the job beside its message (``store/frame.py``)."""
    started_ms: int | None = None
    """When the pool began to run it, by the machine's monotonic clock; ``None``: not yet."""
    guessed: bool = False
    """Its producer said no cost: the cost in :attr:`entry` is the dispatcher's guess."""
    pid: int = 0
    """The process that runs it; 0: not known yet."""

    @property
    def runs_again(self) -> bool:
        """True if a worker began it before: crashes, rejects and reaps are not all zero."""
        return began_before(self.entry)

    @property
    def is_suspect(self) -> bool:
        """True if it must run alone, because it may be what killed its workers."""
        return parse_lane(lane_of(self.entry)).alone

    @property
    def task(self) -> str:
        """The name of its task."""
        return parse_lane(lane_of(self.entry)).task

    @property
    def model(self) -> str:
        """The model that it was resolved to; ``default`` where it asked for none."""
        return parse_lane(lane_of(self.entry)).model
