"""What workers tell of the jobs they ended, and what the leader makes of two such tellings: evidence for speeds, costs and health."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from dispatcher.core.facts.header import DEFAULT_MODEL

PROBE_TASK: Final = "dispatcher.probe"
"""The task of probes. They are no jobs of anybody's: counted apart, and in no kind."""


class KindTotals(msgspec.Struct, omit_defaults=True):
    """One kind of job on one worker, since its life began.

    ``busy_ms`` and ``cost_ms`` (from the jobs' frames) are of those that were *done*: one that fails at once says nothing of speed. What
    their models took to load is in neither.
    ``guessed`` of them, with the ``guessed_`` times, came without a cost of their producer's.
    """

    task: str
    model: str
    done: int = 0
    failed: int = 0
    retried: int = 0
    busy_ms: int = 0
    cost_ms: int = 0
    guessed: int = 0
    guessed_busy_ms: int = 0
    guessed_cost_ms: int = 0


class Running(msgspec.Struct, omit_defaults=True):
    """A job that runs now, for ``age_ms`` so far, what its model took to load left out."""

    task: str
    model: str
    age_ms: int
    cost_ms: int
    guessed: bool = False


class Memory(msgspec.Struct, omit_defaults=True):
    """Models of a worker: those in its memory, and model → (how often it was loaded since the worker began, ms in all)."""

    resident: list[str] = []
    loads: dict[str, tuple[int, int]] = {}


class WorkerTotals(msgspec.Struct, omit_defaults=True):
    """What a worker tells with its beat. ``failures_in_row``: of all kinds, up to now. ``running``: the oldest few.

    ``memory`` of ``None``: it does not say which models it holds. ``probes``: how many have ended; ``probes_failed_in_row``: of the
    last ones.
    """

    kinds: list[KindTotals] = []
    failures_in_row: int = 0
    running: list[Running] = []
    memory: Memory | None = None
    probes: int = 0
    probes_failed_in_row: int = 0


class Told(msgspec.Struct, frozen=True):
    """The totals of a living worker, as of its last beat, and what it registered as."""

    epoch: str
    name: str
    concurrency: int
    weight: float
    totals: WorkerTotals

    def may_load(self, job: Running) -> bool:
        """Whether that job may be waiting for its model: then its age says nothing of how fast the worker is."""
        memory = self.totals.memory
        return memory is not None and job.model != DEFAULT_MODEL and job.model not in memory.resident


class Delta(msgspec.Struct, frozen=True):
    """What one worker did of one kind of job since it was last read. Fields as in :class:`KindTotals`; none is negative."""

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


class Subscriber(Protocol):
    """Learns from what workers tell. Pure; what it has learned survives a takeover through ``dump`` and ``load``."""

    def observe(self, deltas: Sequence[Delta], told: Sequence[Told], now_ms: int) -> None:
        """``deltas``: what is new; ``told``: all living workers, changed or not. Called about once in ``heartbeat_s``."""

    def dump(self) -> bytes:
        """What to keep, as JSON; the same bytes while nothing worth keeping has changed."""

    def load(self, state: bytes) -> None:
        """Go on from there. Raises ``msgspec.MsgspecError`` for what ``dump`` did not write."""


def deltas(epoch: str, name: str, before: WorkerTotals | None, after: WorkerTotals) -> Iterator[Delta]:
    """What the worker did between two tellings; all of ``after`` where there was none before."""
    known: Mapping[tuple[str, str], KindTotals] = {(one.task, one.model): one for one in before.kinds} if before else {}
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
