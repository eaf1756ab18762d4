"""The workers of a simulated cell, their lives, and when they die."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dispatcher.simulation.caches import LruCache, ModelPlaces


@dataclass(frozen=True, slots=True)
class SimWorker:
    """A worker. It serves every model."""

    name: str
    concurrency: int = 1
    """Number of slots."""
    weight: float = 1.0
    """The speed of one slot."""
    models_max: int = 0
    """How many models fit in its memory; 0 for any number."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The death of a worker."""

    name: str
    at_ms: float
    back_ms: float | None = None
    """How long after its death the worker begins another life; ``None``: never."""


@dataclass(slots=True, eq=False)
class WorkerLife:
    """One life of a worker, with all that is true of it: the dispatcher knows less."""

    spec: SimWorker
    epoch: str
    blocks: LruCache
    sessions: LruCache
    models: ModelPlaces
    unplaced: deque[int] = field(default_factory=deque)
    """Jobs that have begun, and wait for a place in memory for their models."""
    unbegun: deque[tuple[int, float]] = field(default_factory=deque)
    """Leased jobs that the worker has not begun: (job, when it reaches the worker)."""
    running: set[int] = field(default_factory=set)
    leased_cost_ms: int = 0
    done: int = 0
    reported_done: int = 0
    """``done`` as of the last beat."""
    reported_at_ms: float = 0.0
    """When that beat was."""
    died: bool = False
    silent: bool = False
    """The dispatcher has noticed that the worker takes no jobs any more."""

    @property
    def leases(self) -> int:
        return len(self.unbegun) + len(self.running)
