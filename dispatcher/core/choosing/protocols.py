"""What the parts of choosing must offer: an order of lanes (``order/``), a filter of workers (``filters.py``), a
strategy that scores (``strategies/``, registered in its ``__init__.py``).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import msgspec

from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView


class Load(msgspec.Struct):
    """What a worker owes, kept up to date while a plan grows; or what many owe, each field an array over the same
    workers.

    The last three fields are 0 unless the strategy takes turns.
    """

    leases: float
    """Jobs that the worker owes."""
    cost_ms: float
    """Their cost."""
    slots: float
    """Its concurrency."""
    last_turn: float = 0
    """When it was last chosen (a count, not a time)."""
    passed: float = 0.0
    """Its virtual time: turns, weighted by capacity."""
    stride: float = 0.0
    """What one turn adds to ``passed``."""


class Filter(Protocol):
    """A hard condition.

    A filter that is ``of_worker`` may have ``keeps(workers, indices)``, which returns the indices of workers that it
    does not refuse. Such a filter is asked about every worker in every plan, and a single call for all is ten times
    quicker than one for each.
    """

    name: ClassVar[str]
    of_worker: ClassVar[bool]
    """True: it looks at the worker alone, and at what changes from beat to beat. False: it looks at what the lane asks
    (never at its size, slot, tenant or deadline) and at what the worker said when its life began, so that its answers
    can be kept.
    """

    def refuses(self, lane: Lane, worker: WorkerView) -> str | None:
        """Why jobs of the lane must not go to the worker, in a few words; ``None`` if they may."""
        ...


class Strategy(Protocol):
    """A preference among the workers that passed the filters and have room."""

    name: ClassVar[str]
    draws: ClassVar[int]
    """0: the best of all workers gets the job. Else so many workers are drawn by chance for each job, and the best of
    these gets it.
    """
    turns: ClassVar[Literal["", "equal", "weighed"]]
    """The plan keeps :attr:`Load.last_turn` for the strategy (``equal``), or :attr:`Load.passed` (``weighed``), or
    neither.
    """
    timed: ClassVar[bool]
    """True if the score is a time in ms, to which other times may be added."""

    def score(self, cost_ms: float, load: Load, speed: float) -> float:
        """Lower is better. ``speed`` is of one slot, for this model. It must not fall while ``load`` grows: the plan
        relies on it.

        Arithmetic only, no branches: for a large fleet it is called once with arrays in ``load`` and ``speed``, and
        answers with one.
        """
        ...
