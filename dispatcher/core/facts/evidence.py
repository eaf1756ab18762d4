"""What workers report of the jobs they ended, and what the leader makes of two reports: evidence for speeds, costs and
health.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from dispatcher.core.facts.header import DEFAULT_MODEL

PROBE_TASK: Final = "dispatcher.probe"
"""The task of probes. They are nobody's jobs: they are counted apart, and in no kind."""


class KindTotals(msgspec.Struct, omit_defaults=True):
    """Jobs of one kind (task and model) on one worker, since its life began."""

    task: str
    model: str
    done: int = 0
    """Runs that ended well."""
    failed: int = 0
    retried: int = 0
    busy_ms: int = 0
    """Time that the runs that ended well took, without loading models. A job that fails at once says nothing of speed.
    """
    cost_ms: int = 0
    """Cost of the same jobs, from their frames."""
    guessed: int = 0
    """How many of ``done`` came without a cost of their producer's."""
    guessed_busy_ms: int = 0
    """Their part of ``busy_ms``."""
    guessed_cost_ms: int = 0
    """Their part of ``cost_ms``."""


class Running(msgspec.Struct, omit_defaults=True):
    """A job that runs now."""

    task: str
    model: str
    age_ms: int
    """How long it has run so far, without the time that its model took to load."""
    cost_ms: int
    guessed: bool = False
    """True if its producer did not say the cost."""


class Memory(msgspec.Struct, omit_defaults=True):
    """Models of a worker."""

    resident: list[str] = []
    """Models in its memory."""
    loads: dict[str, tuple[int, int]] = {}
    """Model → how often it was loaded since the worker began, and how many ms the loads took in all."""


class WorkerTotals(msgspec.Struct, omit_defaults=True):
    """What a worker reports with its beat."""

    kinds: list[KindTotals] = []
    failures_in_row: int = 0
    """Failures of any kind without a success since, up to now."""
    running: list[Running] = []
    """The oldest few of the jobs that run."""
    memory: Memory | None = None
    """``None``: the worker does not say which models it holds."""
    probes: int = 0
    """How many probes have ended."""
    probes_failed_in_row: int = 0
    """How many of the last probes failed, without a good one since."""
    changes: int = 0
    """How often the worker has changed its registration in this life: as often as that says itself, once it is read."""


class WorkerReport(msgspec.Struct, frozen=True):
    """The totals of a living worker, as of its last beat, and what it registered as."""

    epoch: str
    name: str
    concurrency: int
    weight: float
    totals: WorkerTotals

    def may_load(self, job: Running) -> bool:
        """True if the job may be waiting for its model: then its age says nothing of how fast the worker is."""
        memory = self.totals.memory
        return memory is not None and job.model != DEFAULT_MODEL and job.model not in memory.resident


class Delta(msgspec.Struct, frozen=True):
    """What one worker did of one kind of job since it was last read. Fields as in :class:`KindTotals`; none is
    negative.
    """

    epoch: str
    name: str
    task: str
    model: str
    done: int
    failed: int
    busy_ms: int
    cost_ms: int
    retried: int = 0
    guessed: int = 0
    guessed_busy_ms: int = 0
    guessed_cost_ms: int = 0


class Remembered(Protocol):
    """Knows something that must survive a takeover."""

    def dump(self) -> bytes:
        """What to keep, as JSON; the same bytes while nothing worth keeping has changed."""

    def load(self, state: bytes) -> None:
        """Go on from there. Raises ``msgspec.MsgspecError`` for what ``dump`` did not write."""


class Learner(Remembered, Protocol):
    """Learns from what workers report. Pure."""

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        """``deltas``: what is new; ``reports``: of all living workers, changed or not. Called about once in
        ``heartbeat_s``.
        """


def deltas(epoch: str, name: str, before: WorkerTotals | None, after: WorkerTotals) -> Iterator[Delta]:
    """What the worker did between two reports; all of ``after`` if it is the first."""
    known: Mapping[tuple[str, str], KindTotals] = {(kind.task, kind.model): kind for kind in before.kinds} if before else {}
    for kind in after.kinds:
        old = known.get((kind.task, kind.model))
        if old is None:
            new = Delta(
                epoch, name, kind.task, kind.model, kind.done, kind.failed, kind.busy_ms, kind.cost_ms, kind.retried,
                kind.guessed, kind.guessed_busy_ms, kind.guessed_cost_ms,
            )  # fmt: skip
        elif kind == old:
            continue
        else:
            new = Delta(
                epoch,
                name,
                kind.task,
                kind.model,
                done=kind.done - old.done,
                failed=kind.failed - old.failed,
                busy_ms=kind.busy_ms - old.busy_ms,
                cost_ms=kind.cost_ms - old.cost_ms,
                retried=kind.retried - old.retried,
                guessed=kind.guessed - old.guessed,
                guessed_busy_ms=kind.guessed_busy_ms - old.guessed_busy_ms,
                guessed_cost_ms=kind.guessed_cost_ms - old.guessed_cost_ms,
            )
        # Totals that fell (Redis lost its last writes) are read as a new beginning.
        numbers = (new.done, new.failed, new.busy_ms, new.cost_ms, new.retried, new.guessed, new.guessed_busy_ms, new.guessed_cost_ms)
        if min(numbers) >= 0:
            yield new
