"""The models in the memories of simulated workers, and what their dispatcher knows of them from beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.facts.evidence import WorkerReport, WorkerTotals
from dispatcher.settings import Settings
from dispatcher.settings.rules import residency_of
from dispatcher.simulation.caches import HitCount, ModelPlaces
from dispatcher.simulation.traces import SimJob


class ModelMemories:
    """The memories of all workers of a cell."""

    def __init__(
        self,
        jobs: Sequence[SimJob],
        load_ms: Mapping[str, float],
        settings: Settings,
        count: HitCount,
        *,
        reported: bool,
    ) -> None:
        """``load_ms``: model → how long it takes to load. ``reported`` False: beats do not report what is in memory."""
        self.models = frozenset(job.model for job in jobs if job.model)
        """All models that jobs ask for."""
        self._load_ms = load_ms
        self._heartbeat_ms = settings.heartbeat_s * 1000
        self._count = count
        self._residency = residency_of(settings) if self.models and reported else None
        self._beats: set[float] = set()

    # -- what happens

    def enter(self, places: ModelPlaces, model: str, now_ms: float) -> float | None:
        """When a job may run on its model; ``None`` if no place in memory is free for the model now."""
        loads = places.loads.get(model)
        ready_ms = places.enter(model, now_ms, self._load_ms.get(model, 0.0))
        if ready_ms is not None:
            self._count.asked += 1
            self._count.hits += places.loads[model] == loads
        return ready_ms

    def beats(self, began_ms: float, ended_ms: float) -> Iterable[float]:
        """When the beats come that report a load: that a model went for it, and that it is done.

        All workers beat together.
        """
        if self._residency is None or ended_ms <= began_ms:
            return ()
        after = {(at_ms // self._heartbeat_ms + 1) * self._heartbeat_ms for at_ms in (began_ms, ended_ms)}
        new = after - self._beats
        self._beats |= new
        return sorted(new)

    # -- what the dispatcher knows

    @property
    def load_ms(self) -> Mapping[str, int]:
        """How long each model takes to load, as the dispatcher has learned it."""
        return {} if self._residency is None else self._residency.load_ms

    def of(self, epoch: str, now_ms: float) -> tuple[frozenset[str] | None, int]:
        """See :meth:`Residency.of <dispatcher.core.learning.residency.Residency.of>`."""
        return (None, 0) if self._residency is None else self._residency.of(epoch, int(now_ms), ())

    def loading(self, epoch: str) -> frozenset[str]:
        """See :meth:`Residency.loading <dispatcher.core.learning.residency.Residency.loading>`."""
        return frozenset() if self._residency is None else self._residency.loading(epoch)

    def assigned(self, assignments: Iterable[Assign], now_ms: float) -> None:
        """Note that these jobs have gone to their workers."""
        if self._residency is not None:
            self._residency.assigned(assignments, int(now_ms))

    def hear(self, workers: Mapping[str, tuple[str, ModelPlaces]], now_ms: float) -> None:
        """A beat of all workers: epoch → worker name, and the models in its memory."""
        self._beats.discard(now_ms)
        if self._residency is not None:
            reports = [
                WorkerReport(epoch, name, 1, 1.0, WorkerTotals(memory=places.report(now_ms)))
                for epoch, (name, places) in workers.items()
            ]
            self._residency.observe((), reports, int(now_ms))
