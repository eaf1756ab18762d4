"""Lanes and workers for tests of policy, with defaults that a test changes where it matters."""

from __future__ import annotations

from typing import Any

from dispatcher.core.facts.lane import Lane, lane_name, size_class
from dispatcher.core.facts.snapshot import LaneView, WorkerView

STALL_MS = 3_000


def lane_view(
    *,
    ingress: str = "dispatch",
    task: str = "t.one",
    model: str = "default",
    step: int = 0,
    depth: int = 1,
    cost_ms: int = 1_000,
    admitted_ms: int = 0,
    deadline_ms: int = 0,
    **more: Any,
) -> LaneView:
    lane = Lane(ingress, task, model, step, size_class(cost_ms), **more)
    return LaneView(lane_name(lane), lane, depth, cost_ms, admitted_ms, deadline_ms)


def worker_view(epoch: str = "e0", **facts: Any) -> WorkerView:
    given: dict[str, Any] = dict(
        name=f"{epoch}@h", concurrency=1, weight=1.0, models=frozenset(), tasks=frozenset({"t.one"}), ingress=frozenset({"dispatch"}),
        leases=0, leased_cost_ms=0, taken=0, window=3,
    )  # fmt: skip
    return WorkerView(epoch=epoch, **(given | facts))
