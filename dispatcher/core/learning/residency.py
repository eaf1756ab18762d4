"""Which worker has which model in its memory, and what it costs a job where none of them has: the time of a load."""

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
"""What one more load counts for in the measured time of its model."""

ARRIVAL_LOADS, ARRIVAL_EXTRA_MS = 2, 5_000
"""A model that was sent for is taken to be on its way for this many load times and this much more; then only the worker's word counts."""


FULL_LOADS = 2
"""What a load costs where memory is full, in loads: another model must go, and be loaded again when its next job comes."""


def load_penalty_ms(model: str, worker: WorkerView, load_ms: int) -> float:
    """What it costs to run a job of ``model``, which takes ``load_ms`` to load, on ``worker``, in ms of its time.

    0 where the worker has it, or will soon, or does not say; else the load, and that of the model that must make room.
    """
    if worker.resident is None or model in worker.resident:
        return 0.0
    full = 0 < worker.models_max <= len(worker.resident)
    return float(load_ms * (FULL_LOADS if full else 1))


def time_to_load_ms(model: str, load_ms: Mapping[str, int]) -> int:
    """How long ``model`` takes to load; 0 where nobody knows. A version that was never loaded (``chat@2``) is taken to load as long as
    the name without it (``chat``) where that is known.
    """
    known = load_ms.get(model)
    return load_ms.get(model.partition("@")[0], 0) if known is None else known


@dataclass(slots=True)
class LoadTimes:
    """Model → time to load it: measured where it was, else the prior that a setting gives."""

    prior_ms: Mapping[str, int] = field(default_factory=dict)
    measured_ms: dict[str, float] = field(default_factory=dict)

    def observe(self, model: str, loads: int, total_ms: float) -> None:
        """``loads`` more loads were seen, somewhere, that took ``total_ms`` together."""
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
    """Models on their way into a worker's memory: a job of each was assigned to it while it had not said that it holds them.

    Without this every job until the worker's next beat would look for the model elsewhere, and have it loaded there too.
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
        arrivals = {model: one for model, one in arrivals.items() if model not in resident and one.is_believed(now_ms)}
        if not arrivals:
            del self._until[epoch]
            return resident, 0
        self._until[epoch] = arrivals
        return resident | arrivals.keys(), sum(one.left_ms(now_ms) for one in arrivals.values())

    def models(self, epoch: str) -> frozenset[str]:
        """Those on their way to that worker."""
        return frozenset(self._until.get(epoch, ()))

    def forget(self, alive: Collection[str], now_ms: int) -> None:
        """Keep those workers, and what is still believed in: a worker that is new has not been heard of."""
        self._until = {
            epoch: models
            for epoch, models in self._until.items()
            if epoch in alive or any(one.is_believed(now_ms) for one in models.values())
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
    """What survives a takeover. ``loads``: epoch → model → (loads, ms) that were learned from already."""

    measured_ms: dict[str, float] = {}
    loads: dict[str, dict[str, tuple[int, int]]] = {}


class Residency:
    """What the leader knows of the models in its workers' memories; learns from what they tell with their beats."""

    def __init__(self, prior_ms: Mapping[str, int]) -> None:
        self._times = LoadTimes(prior_ms)
        self._arrivals = Arrivals()
        self._resident: dict[str, frozenset[str] | None] = {}
        self._loads: dict[str, dict[str, tuple[int, int]]] = {}
        self.load_ms: Mapping[str, int] = dict(prior_ms)
        """Model → time to load it, where known."""

    def of(self, epoch: str, now_ms: int, at_first: Collection[str] | None = None) -> tuple[frozenset[str] | None, int]:
        """What the worker holds or will soon (``None``: it does not say), and how many ms of loading are between now and then.

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
        for one in assignments:
            if (resident := self._resident.get(one.epoch)) is not None:
                model = parse_lane(one.lane).model
                self._arrivals.assigned(one.epoch, model, resident, time_to_load_ms(model, self.load_ms), now_ms)

    # -- evidence

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        alive = {one.epoch for one in reports}
        self._arrivals.forget(alive, now_ms)
        self._loads = {epoch: loads for epoch, loads in self._loads.items() if epoch in alive}
        self._resident = {}
        for one in reports:
            memory = one.totals.memory
            self._resident[one.epoch] = None if memory is None else frozenset(memory.resident)
            if memory is not None and memory.loads != (before := self._loads.get(one.epoch, {})):
                for model, (count, total_ms) in memory.loads.items():
                    count_before, total_before_ms = before.get(model, (0, 0))
                    self._times.observe(model, count - count_before, max(0, total_ms - total_before_ms))
                self._loads[one.epoch] = memory.loads
        self.load_ms = self._times.known_ms()

    def dump(self) -> bytes:
        return msgspec.json.encode(_Learned(self._times.measured_ms, self._loads))

    def load(self, state: bytes) -> None:
        learned = msgspec.json.decode(state, type=_Learned)
        self._times.measured_ms, self._loads = learned.measured_ms, learned.loads
        self.load_ms = self._times.known_ms()
