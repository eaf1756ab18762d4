"""What a plan decides: assignments, and holds with their reasons."""

from __future__ import annotations

import msgspec


class Assign(msgspec.Struct, frozen=True, gc=False):
    """``count`` jobs from the head of ``lane`` go to ``epoch``; ``score`` is the strategy's for the first of them."""

    lane: str
    epoch: str
    count: int
    window: int
    score: float


class Hold(msgspec.Struct, frozen=True):
    """``jobs`` of ``lane`` wait, though this plan could have placed more jobs. ``waits_for``: epoch of a full worker → how many of them
    wait for it; empty where they wait for any.

    ``reason``: ``paused``; ``unroutable`` (no worker may have them); ``full`` (all that may have no room); ``sooner_elsewhere`` (a full
    worker will be done with them sooner); ``sticky`` (the worker of their session or prefix is full); ``tenant_cap`` or ``model_cap``
    (as much of that is leased as may be); ``alone`` (they are suspects, and wait for a worker that runs nothing else).
    """

    lane: str
    reason: str
    jobs: int
    waits_for: dict[str, int]


class Plan(msgspec.Struct, frozen=True):
    """What to do at one instant."""

    assignments: tuple[Assign, ...]
    holds: tuple[Hold, ...]
