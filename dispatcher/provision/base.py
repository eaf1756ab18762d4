"""What the autoscaler and ``dispatcher up`` ask of whatever starts and stops workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """A sort of worker that can be started any number of times. ``weight`` is the speed of one of its slots."""

    name: str
    weight: float = 1.0
    concurrency: int = 1
    pool: str = "prefork"
    models: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    models_max: int = 0

    @property
    def capacity(self) -> float:
        """Seconds of work that one worker of the kind does in a second."""
        return self.weight * self.concurrency


@dataclass(frozen=True, slots=True)
class WorkerHandle:
    """One worker that a provisioner started and that has not ended. ``name`` is the Celery node name."""

    name: str
    kind: WorkerKind
    pid: int
    stopping: bool = False


class Provisioner(Protocol):
    """Starts and stops workers. Every method may be called from any thread and none waits for a job to end."""

    def start(self, kind: WorkerKind) -> WorkerHandle:
        """Start one more worker of this kind; it registers by itself when it is up. Raises :class:`Unavailable`."""
        ...

    def stop(self, name: str) -> None:
        """Let the worker finish what it runs, then exit. Unknown names are ignored: it may just have ended."""
        ...

    def kill(self, name: str) -> None:
        """End the worker now, without a word to it."""
        ...

    def list(self) -> list[WorkerHandle]:
        """The workers it started and that have not ended, oldest first."""
        ...
