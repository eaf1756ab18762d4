"""The hard conditions, in the order they are tried; the first refusal is the reason that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts import labels
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView


@dataclass(frozen=True, slots=True)
class Alive:
    """The worker has not ended and looks at its queue: a worker that beats but does not consume gets nothing."""

    stall_ms: int
    name: ClassVar[str] = "alive"
    of_worker: ClassVar[bool] = True

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        if worker.ended is not None:
            return f"ended: {worker.ended}"
        if worker.consume_age_ms > self.stall_ms:
            return f"has not looked at its queue for {worker.consume_age_ms} ms"
        if worker.loop_lag_ms > self.stall_ms:
            return f"its event loop is {worker.loop_lag_ms} ms late"
        return None

    def keeps(self, workers: Sequence[WorkerView], indices: Sequence[int]) -> Sequence[int]:
        stall_ms = self.stall_ms
        return [
            i
            for i in indices
            if (worker := workers[i]).ended is None and worker.consume_age_ms <= stall_ms and worker.loop_lag_ms <= stall_ms
        ]


@dataclass(frozen=True, slots=True)
class NotEjected:
    """The worker was not found faulty (``core/health/ejection.py``)."""

    name: ClassVar[str] = "ejected"
    of_worker: ClassVar[bool] = True

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return worker.ejected or None

    def keeps(self, workers: Sequence[WorkerView], indices: Sequence[int]) -> Sequence[int]:
        return [i for i in indices if not workers[i].ejected] if any(map(attrgetter("ejected"), workers)) else indices


@dataclass(frozen=True, slots=True)
class NotDraining:
    """The worker takes new work."""

    name: ClassVar[str] = "not_draining"
    of_worker: ClassVar[bool] = True

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return "draining" if worker.draining else None

    def keeps(self, workers: Sequence[WorkerView], indices: Sequence[int]) -> Sequence[int]:
        return [i for i in indices if not workers[i].draining] if any(map(attrgetter("draining"), workers)) else indices


@dataclass(frozen=True, slots=True)
class NamedIngress:
    """The worker consumes the queue that the job came through."""

    name: ClassVar[str] = "ingress"
    of_worker: ClassVar[bool] = False

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return None if lane.ingress in worker.ingress else f"does not consume {lane.ingress}"


@dataclass(frozen=True, slots=True)
class HasTask:
    """The worker has the task registered; in a rolling deploy not every worker has."""

    name: ClassVar[str] = "task"
    of_worker: ClassVar[bool] = False

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return None if lane.task in worker.tasks else f"has no task {lane.task}"


@dataclass(frozen=True, slots=True)
class ServesModel:
    """The worker serves the model; every worker serves the default one."""

    name: ClassVar[str] = "model"
    of_worker: ClassVar[bool] = False

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        model = lane.model
        return None if model == DEFAULT_MODEL or model in worker.models else f"does not serve {model}"


@dataclass(frozen=True, slots=True)
class Requires:
    """The worker has every label that the job requires. There is no way around it: a job that no worker matches waits."""

    name: ClassVar[str] = "requires"
    of_worker: ClassVar[bool] = False

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return labels.refused(lane.requires, worker.labels) if lane.requires else None


@dataclass(frozen=True, slots=True)
class CanRead:
    """The worker was not found unable to read the jobs of this lane (``core/returns/ending.py``)."""

    name: ClassVar[str] = "reads"
    of_worker: ClassVar[bool] = False

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        return "could not read the message" if lane.requires and worker.epoch in labels.avoided(lane.requires) else None


def standard_filters(*, stall_ms: int) -> tuple[Filter, ...]:
    """All filters, in their order."""
    of_worker = Alive(stall_ms), NotEjected(), NotDraining()
    return (*of_worker, NamedIngress(), HasTask(), ServesModel(), Requires(), CanRead())
