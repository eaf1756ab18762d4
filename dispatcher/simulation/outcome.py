"""What happened in a simulated cell, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from dispatcher.simulation.caches import HitCount


@dataclass(slots=True)
class WorkerAccount:
    """What a worker did in all its lives. Only jobs that ended count."""

    jobs: int = 0
    work_ms: float = 0.0
    """Their work at speed 1, without what caches saved."""
    busy_ms: float = 0.0
    """How long they ran, summed over slots."""


@dataclass(slots=True)
class SimOutcome:
    """What happened in one run."""

    response_ms: list[float]
    """From arrival to end, for each job in order of arrival; NaN for a job that never ended."""
    runs: list[int]
    """How often each job was begun, in order of arrival."""
    workers: dict[str, WorkerAccount]
    ended_ms: float = 0.0
    """When the last job ended."""
    waiting: list[tuple[float, int]] = field(default_factory=list)
    """(ms, jobs that waited in lanes then), some 400 samples."""
    plans: int = 0
    blocks: HitCount = field(default_factory=HitCount)
    """Prefix blocks of the jobs begun; a hit: the worker had the block cached."""
    sessions: HitCount = field(default_factory=HitCount)
    """Jobs of a session after its first; a hit: the job before ran on the same worker, which still kept the session."""
    models: HitCount = field(default_factory=HitCount)
    """Jobs of a model; a hit: it was in memory, or on its way there, when the job began."""

    @property
    def loads(self) -> int:
        """How often a model was loaded, on all workers together."""
        return self.models.asked - self.models.hits
