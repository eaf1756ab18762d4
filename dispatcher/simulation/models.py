"""What simulated workers have in memory, and what their dispatcher knows of it: no more than a real one, from beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.facts.evidence import Told, WorkerTotals
from dispatcher.core.learning.residency import Residency
from dispatcher.settings import Settings
from dispatcher.simulation.caches import HitCount, ModelPlaces
from dispatcher.simulation.traces import SimJob


class Memories:
    """Those of all workers. ``load_ms``: model → how long it takes to load; ``told`` False: the dispatcher is told nothing of it."""

    def __init__(
        self, jobs: Sequence[SimJob], load_ms: Mapping[str, float], settings: Settings, count: HitCount, *, told: bool
    ) -> None:
        self.models = frozenset(job.model for job in jobs if job.model)
        """All there are."""
        self._load_ms = load_ms
        self._heartbeat_ms = settings.heartbeat_s * 1000
        self._count = count
        self._residency = Residency(settings.load_prior_ms()) if self.models and told else None
        self._beats: set[float] = set()

    # -- what happens

    def enter(self, places: ModelPlaces, model: str, now_ms: float) -> float | None:
        """When a job may begin to run on its model; ``None``: once there is a place for that in memory."""
        loads = places.loads.get(model)
        ready_ms = places.enter(model, now_ms, self._load_ms.get(model, 0.0))
        if ready_ms is not None:
            self._count.asked += 1
            self._count.hits += places.loads[model] == loads
        return ready_ms

    def beats(self, began_ms: float, ended_ms: float) -> Iterable[float]:
        """The beats that tell of a load: that something had to go for it, and that it has come. All workers beat together."""
        if self._residency is None or ended_ms <= began_ms:
            return ()
        after = {(at_ms // self._heartbeat_ms + 1) * self._heartbeat_ms for at_ms in (began_ms, ended_ms)}
        new = after - self._beats
        self._beats |= new
        return sorted(new)

    # -- what is known of it

    @property
    def load_ms(self) -> Mapping[str, int]:
        """As the dispatcher knows it."""
        return {} if self._residency is None else self._residency.load_ms

    def of(self, epoch: str, now_ms: float) -> tuple[frozenset[str] | None, int]:
        """See :meth:`Residency.of <dispatcher.core.learning.residency.Residency.of>`."""
        return (None, 0) if self._residency is None else self._residency.of(epoch, int(now_ms), ())

    def loading(self, epoch: str) -> frozenset[str]:
        """See :meth:`Residency.loading <dispatcher.core.learning.residency.Residency.loading>`."""
        return frozenset() if self._residency is None else self._residency.loading(epoch)

    def assigned(self, assignments: Iterable[Assign], now_ms: float) -> None:
        """These jobs have gone to their workers."""
        if self._residency is not None:
            self._residency.assigned(assignments, int(now_ms))

    def hear(self, places: Mapping[str, tuple[str, ModelPlaces]], now_ms: float) -> None:
        """A beat. ``places``: epoch → name, and what that worker holds."""
        self._beats.discard(now_ms)
        if self._residency is not None:
            told = [Told(epoch, name, 1, 1.0, WorkerTotals(memory=its.told(now_ms))) for epoch, (name, its) in places.items()]
            self._residency.observe((), told, int(now_ms))
