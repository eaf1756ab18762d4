"""The workers of a simulated cell, and when they die."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimWorker:
    """A worker, which serves every model. ``weight`` is the speed of one slot, ``models_max`` how many models its memory holds; 0: all."""

    name: str
    concurrency: int = 1
    weight: float = 1.0
    models_max: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The worker dies ``at_ms``; with ``back_ms``, another life of it begins so much later."""

    name: str
    at_ms: float
    back_ms: float | None = None
