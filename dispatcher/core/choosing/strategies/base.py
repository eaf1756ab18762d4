"""The seams of choosing: order lanes → filter workers → score → pick. Each is a small file here and a line in the registry."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import msgspec

from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView


class Load(msgspec.Struct):
    """What a worker owes, kept up to date while a plan grows; or what many do, each field an array over the same workers.

    ``slots`` is its concurrency. ``last_turn`` is when it was last chosen (a count, not a time), ``passed`` how far it is on in turns
    weighted by capacity, ``stride`` what one turn adds to that; all three are 0 unless the strategy takes turns.
    """

    leases: float
    cost_ms: float
    slots: float
    last_turn: float = 0
    passed: float = 0.0
    stride: float = 0.0


class Filter(Protocol):
    """A hard condition. ``of_worker``: it looks at the worker alone, and at things that change from beat to beat; else at what the
    lane asks (never at its size, slot, tenant or deadline) and what the worker said when its life began, so that its answers are kept.

    One that is ``of_worker`` may have ``keeps(workers, indices)``: those of the indices whose workers it does not refuse. It is asked
    of every worker in every plan, and one call for all is ten times quicker than one for each.
    """

    name: ClassVar[str]
    of_worker: ClassVar[bool]

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        """Why jobs of the lane must not go to the worker, in a few words; ``None`` if they may."""
        ...


class Strategy(Protocol):
    """A preference among the workers that passed the filters and have room.

    ``draws``: 0 for the best of them all; else so many are drawn by chance for each job, and the best of those gets it. ``turns``: the
    plan keeps :attr:`Load.last_turn` for it (``"equal"``), or :attr:`Load.passed` (``"weighed"``). ``timed``: its score is a time in
    ms, to which other times may be added.
    """

    name: ClassVar[str]
    draws: ClassVar[int]
    turns: ClassVar[Literal["", "equal", "weighed"]]
    timed: ClassVar[bool]

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        """Lower is better. ``speed`` is of one slot, for this model. It must not fall while ``load`` grows: the plan relies on it.

        Arithmetic only, no branches: for a large fleet it is called once with arrays in ``load`` and ``speed``, and answers with one.
        """
        ...
