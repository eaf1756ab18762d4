"""What happened in a simulated cell, as it is counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from dispatcher.simulation.caches import HitCount


@dataclass(slots=True)
class WorkerAccount:
    """What one worker, over all its lives, did. ``work_ms`` at speed 1, less what caches saved; ``busy_ms`` summed over slots; both of
    completed jobs.
    """

    jobs: int = 0
    work_ms: float = 0.0
    busy_ms: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What happened. Lists are by job, in order of arrival; ``response_ms`` is NaN for a job that never ended.

    ``blocks``: prefix blocks of the jobs begun, and those that were cached there. ``sessions``: jobs of a session, its first
    one left out, and those that ran where the one before had run and where the session was still kept. ``models``: jobs of a model, and
    those whose model was in memory, or on its way there, when they began.
    """

    response_ms: list[float]
    runs: list[int]
    workers: dict[str, WorkerAccount]
    ended_ms: float = 0.0
    waiting: list[tuple[float, int]] = field(default_factory=list)
    plans: int = 0
    blocks: HitCount = field(default_factory=HitCount)
    sessions: HitCount = field(default_factory=HitCount)
    models: HitCount = field(default_factory=HitCount)

    @property
    def loads(self) -> int:
        """How often a model was loaded, on all workers together."""
        return self.models.asked - self.models.hits
