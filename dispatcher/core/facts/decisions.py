"""What a plan decides: assignments, and holds with their reasons."""

from __future__ import annotations

import msgspec


class Assign(msgspec.Struct, frozen=True, gc=False):
    """Jobs from the head of a lane go to a worker."""

    lane: str
    epoch: str
    """The worker's life."""
    count: int
    """How many jobs."""
    window: int
    """How many leases the worker may hold then; the script gives it no more."""
    score: float
    """The strategy's score for the first of the jobs."""


class Hold(msgspec.Struct, frozen=True):
    """Jobs of a lane wait, though the plan could have placed more jobs."""

    lane: str
    reason: str
    """``paused``; ``unroutable`` (no worker may have them); ``full`` (every worker that may have them is full);
    ``sooner_elsewhere`` (a full worker will be done with them sooner); ``sticky`` (the worker of their session or
    prefix is full); ``tenant_cap`` or ``model_cap`` (as much of the tenant's or the model's work is leased as may be);
    ``alone`` (they are suspects, and wait for a worker that runs nothing else).
    """
    jobs: int
    """How many jobs wait."""
    waits_for: dict[str, int]
    """Epoch of a full worker → how many of the jobs wait for it; empty if they wait for any worker."""


class Plan(msgspec.Struct, frozen=True):
    """What to do at one instant."""

    assignments: tuple[Assign, ...]
    holds: tuple[Hold, ...]
