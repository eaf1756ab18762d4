"""The protocol of whatever starts and stops workers, for the autoscaler and ``dispatcher up``.

Each kind of place where workers run has an implementation of its own: local processes in ``processes.py``. A place that
needs a client library gets a folder (``provision/docker/``, ``provision/kubernetes/``) with its :class:`Provisioner` in
it; only the command that uses it imports the folder, so that the library stays an optional extra. What all places share
(:class:`WorkerKind`, the fleet file, the autoscaler) stays beside this file and imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """A kind of worker, of which any number can be started."""

    name: str
    """A worker's node name is this name, with a number behind it where there are several."""
    weight: float = 1.0
    """The speed of one slot."""
    concurrency: int = 1
    """Number of slots."""
    pool: str = "prefork"
    """Celery's pool: ``prefork``, ``threads`` or ``solo``."""
    models: tuple[str, ...] = ()
    """Models that the worker serves."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Facts that a job's ``requires`` and ``prefers`` are compared with, such as ``region=eu``."""
    models_max: int = 0
    """Models that each of the worker's processes may hold in memory at once; 0 for any number."""
    threads: int = 0
    """Threads of BLAS, OpenMP and the like in each slot; 0 for its share of the cores."""

    @property
    def capacity(self) -> float:
        """Seconds of work that a worker of this kind does in a second."""
        return self.weight * self.concurrency


@dataclass(frozen=True, slots=True)
class WorkerHandle:
    """A worker that a provisioner started and that has not ended."""

    name: str
    """Celery's node name."""
    kind: WorkerKind
    pid: int
    """The worker's main process."""
    stopping: bool = False
    """It was told to stop, and finishes what it runs."""


class Provisioner(Protocol):
    """Starts and stops workers in one kind of place. Any thread may call it; no method waits for a job to end."""

    def start(self, kind: WorkerKind) -> WorkerHandle:
        """Start another worker of this kind; the worker registers by itself when it is up.

        Raises :class:`Unavailable`.
        """
        ...

    def stop(self, name: str) -> None:
        """Let the worker finish what it runs, then exit. Ignores unknown names: the worker may just have ended."""
        ...

    def kill(self, name: str) -> None:
        """End the worker at once, without asking it."""
        ...

    def list(self) -> list[WorkerHandle]:
        """The workers that this provisioner started and that have not ended, oldest first."""
        ...
