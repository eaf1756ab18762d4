"""Which worker has which model in its memory, and what it costs a job if the worker does not have its model: the time
of a load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dispatcher.core.facts.decisions import Assign
from dispatcher.core.facts.every import is_over
from dispatcher.core.facts.evidence import Delta, WorkerReport
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import WorkerView

EWMA_SHARE = 0.3
"""Weight of one more load in the measured time of its model."""

ARRIVAL_LOADS, ARRIVAL_EXTRA_MS = 2, 5_000
"""A model that was sent for is taken to be on its way for this many load times and this much more; then only the
worker's word counts.
"""


FULL_LOADS = 2
"""What a load costs in a full memory, in loads: another model must go, and be loaded again when its next job comes."""


def load_penalty_ms(model: str, worker: WorkerView, load_ms: int) -> float:
    """What it costs to load ``model`` for a job on ``worker``, in ms of the worker's time. ``load_ms`` is how long the
    model takes to load.

    0 if the worker has the model, or will soon, or does not say; else the load, and the load of the model that must
    make room.
    """
    if worker.resident is None or model in worker.resident:
        return 0.0
    full = 0 < worker.models_max <= len(worker.resident)
    return float(load_ms * (FULL_LOADS if full else 1))


def time_to_load_ms(model: str, load_ms: Mapping[str, int]) -> int:
    """How long ``model`` takes to load; 0 if nobody knows. A version that was never loaded (``chat@2``) is taken to
    load as long as the name without it (``chat``), if that is known.
    """
    known = load_ms.get(model)
    return load_ms.get(model.partition("@")[0], 0) if known is None else known


@dataclass(slots=True)
class LoadTimes:
    """How long models take to load."""

    prior_ms: Mapping[str, int] = field(default_factory=dict)
    """Model → time to load it, as a setting says; used until it was measured."""
    measured_ms: dict[str, float] = field(default_factory=dict)
    """Model → measured time to load it."""

    def observe(self, model: str, loads: int, total_ms: float) -> None:
        """Some worker made ``loads`` more loads, which took ``total_ms`` together."""
        if loads <= 0:
            return
        mean_ms, before_ms = total_ms / loads, self.measured_ms.get(model)
        kept = 0.0 if before_ms is None else (1 - EWMA_SHARE) ** loads
        self.measured_ms[model] = mean_ms if before_ms is None else kept * before_ms + (1 - kept) * mean_ms

    def known_ms(self) -> dict[str, int]:
        """For :attr:`Snapshot.load_ms <dispatcher.core.facts.snapshot.Snapshot.load_ms>`."""
        return {**self.prior_ms, **{model: round(ms) for model, ms in self.measured_ms.items()}}


@dataclass(slots=True)
class Arrivals:
    """Models on their way into a worker's memory: a job of each was assigned to it while it had not said that it holds
    them.

    Without this every job until the worker's next beat would look for the model elsewhere, and have it loaded there
    too.
    """

    _until: dict[str, dict[str, _Arrival]] = field(default_factory=dict)

    def assigned(self, epoch: str, model: str, resident: Collection[str] | None, load_ms: int, now_ms: int) -> None:
        """A job of ``model`` went to a worker that said it holds ``resident``."""
        if resident is None or model in resident or load_ms <= 0:
            return
        arrivals = self._until.setdefault(epoch, {})
        if model not in arrivals:
            arrivals[model] = _Arrival(now_ms, load_ms)

    def soon(self, epoch: str, resident: frozenset[str] | None, now_ms: int) -> tuple[frozenset[str] | None, int]:
        """What the worker holds or will soon, and how many ms of loading are between now and then."""
        arrivals = self._until.get(epoch)
        if resident is None or not arrivals:
            return resident, 0
        arrivals = {
            model: arrival for model, arrival in arrivals.items() if model not in resident and arrival.is_believed(now_ms)
        }
        if not arrivals:
            del self._until[epoch]
            return resident, 0
        self._until[epoch] = arrivals
        return resident | arrivals.keys(), sum(arrival.left_ms(now_ms) for arrival in arrivals.values())

    def models(self, epoch: str) -> frozenset[str]:
        """Models on their way to the worker."""
        return frozenset(self._until.get(epoch, ()))

    def forget(self, alive: Collection[str], now_ms: int) -> None:
        """Keep workers that are alive, and arrivals that are still believed: a new worker has not been heard of."""
        self._until = {
            epoch: models
            for epoch, models in self._until.items()
            if epoch in alive or any(arrival.is_believed(now_ms) for arrival in models.values())
        }


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A job was assigned at ``began_ms`` whose model takes ``load_ms`` to load."""

    began_ms: int
    load_ms: int

    def is_believed(self, now_ms: int) -> bool:
        """False when the worker should have said by now that it holds the model."""
        return not is_over(self.began_ms, ARRIVAL_LOADS * self.load_ms + ARRIVAL_EXTRA_MS, now_ms)

    def left_ms(self, now_ms: int) -> int:
        """How much longer the load should take."""
        return max(0, self.began_ms + self.load_ms - now_ms)


class _Learned(msgspec.Struct):
    """What survives a takeover."""

    measured_ms: dict[str, float] = {}
    """Model → measured time to load it."""
    loads: dict[str, dict[str, tuple[int, int]]] = {}
    """Epoch → model → (loads, ms in all) that were learned from already."""


class Residency:
    """What the leader knows of the models in its workers' memories; learns from what they report with their beats."""

    def __init__(self, prior_ms: Mapping[str, int]) -> None:
        self._times = LoadTimes(prior_ms)
        self._arrivals = Arrivals()
        self._resident: dict[str, frozenset[str] | None] = {}
        self._loads: dict[str, dict[str, tuple[int, int]]] = {}
        self.load_ms: Mapping[str, int] = dict(prior_ms)
        """Model → time to load it, where known."""

    def of(self, epoch: str, now_ms: int, at_first: Collection[str] | None = None) -> tuple[frozenset[str] | None, int]:
        """What the worker holds or will soon (``None``: it does not say), and how many ms of loading are between now
        and then.

        ``at_first``: what it held when its life began, which counts until its first beat has been heard.
        """
        if epoch not in self._resident:
            self._resident[epoch] = None if at_first is None else frozenset(at_first)
        return self._arrivals.soon(epoch, self._resident[epoch], now_ms)

    def loading(self, epoch: str) -> frozenset[str]:
        """What of that it will hold soon. To be asked after :meth:`of`."""
        return self._arrivals.models(epoch)

    def assigned(self, assignments: Iterable[Assign], now_ms: int) -> None:
        """These jobs have gone to their workers."""
        if not self.load_ms:
            return
        for assignment in assignments:
            if (resident := self._resident.get(assignment.epoch)) is not None:
                model = parse_lane(assignment.lane).model
                self._arrivals.assigned(assignment.epoch, model, resident, time_to_load_ms(model, self.load_ms), now_ms)

    # -- evidence

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        alive = {report.epoch for report in reports}
        self._arrivals.forget(alive, now_ms)
        self._loads = {epoch: loads for epoch, loads in self._loads.items() if epoch in alive}
        self._resident = {}
        for report in reports:
            memory = report.totals.memory
            self._resident[report.epoch] = None if memory is None else frozenset(memory.resident)
            if memory is not None and memory.loads != (before := self._loads.get(report.epoch, {})):
                for model, (count, total_ms) in memory.loads.items():
                    count_before, total_before_ms = before.get(model, (0, 0))
                    self._times.observe(model, count - count_before, max(0, total_ms - total_before_ms))
                self._loads[report.epoch] = memory.loads
        self.load_ms = self._times.known_ms()

    def dump(self) -> bytes:
        return msgspec.json.encode(_Learned(self._times.measured_ms, self._loads))

    def load(self, state: bytes) -> None:
        learned = msgspec.json.decode(state, type=_Learned)
        self._times.measured_ms, self._loads = learned.measured_ms, learned.loads
        self.load_ms = self._times.known_ms()
