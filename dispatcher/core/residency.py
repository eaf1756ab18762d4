"""Which worker has which model in its memory, and what it costs a job where none of them has: the time of a load."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dispatcher.core.snapshot import WorkerView

EWMA_SHARE = 0.3
"""What one more load counts for in the measured time of its model."""

ARRIVAL_LOADS, ARRIVAL_EXTRA_MS = 2, 5_000
"""A model that was sent for is taken to be on its way for this many load times and this much more; then only the worker's word counts."""


def load_penalty_ms(model: str, worker: WorkerView, load_ms: Mapping[str, int]) -> float:
    """How much later a job of ``model`` is done on ``worker`` because the model must be loaded first.

    0 where the worker has it, or will soon, and where nothing is known: of the worker's memory, or of the model. A version that was
    never loaded (``chat@2``) is taken to load as long as the name without it (``chat``) where that is known.
    """
    if worker.resident is None or model in worker.resident:
        return 0.0
    return float(time_to_load_ms(model, load_ms))


def time_to_load_ms(model: str, load_ms: Mapping[str, int]) -> int:
    """How long ``model`` takes to load; 0 where nobody knows."""
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
        """For :attr:`Snapshot.load_ms <dispatcher.core.snapshot.Snapshot.load_ms>`."""
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
            arrivals[model] = _Arrival(now_ms + load_ms, now_ms + ARRIVAL_LOADS * load_ms + ARRIVAL_EXTRA_MS)

    def soon(self, epoch: str, resident: frozenset[str] | None, now_ms: int) -> tuple[frozenset[str] | None, int]:
        """What the worker holds or will soon, and how many ms of loading are between now and then."""
        arrivals = self._until.get(epoch)
        if resident is None or not arrivals:
            return resident, 0
        arrivals = {model: one for model, one in arrivals.items() if model not in resident and now_ms < one.given_up_ms}
        if not arrivals:
            del self._until[epoch]
            return resident, 0
        self._until[epoch] = arrivals
        return resident | arrivals.keys(), sum(max(0, one.due_ms - now_ms) for one in arrivals.values())

    def forget(self, alive: Collection[str]) -> None:
        """Keep those workers only."""
        self._until = {epoch: one for epoch, one in self._until.items() if epoch in alive}


@dataclass(frozen=True, slots=True)
class _Arrival:
    """``due_ms``: when the load should be over; ``given_up_ms``: when it is no longer believed in."""

    due_ms: int
    given_up_ms: int
