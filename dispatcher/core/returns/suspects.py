"""Where suspects run: jobs that may kill their workers (``core/returns/poison.py``), each of which gets a worker to
itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts.decisions import Hold
from dispatcher.core.facts.snapshot import LaneView, WorkerView, is_paused

SHARE: Final = 4
"""One worker in so many, but always one, may be kept for suspects at a time: suspects are rare, and other jobs need
workers.
"""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Where suspects go now."""

    assign: tuple[tuple[str, str], ...]
    """(lane, epoch): the next job of the lane goes to this worker, which is empty."""
    emptying: frozenset[str]
    """Epochs that get nothing new, so that a suspect finds them empty."""
    holds: tuple[Hold, ...]
    """Why other suspects wait."""


def place_suspects(
    lanes: Iterable[LaneView],
    workers: Sequence[WorkerView],
    filters: Sequence[Filter],
    *,
    alone: Collection[str],
    emptying: Collection[str],
    paused: Collection[str] = (),
) -> Quarantine:
    """Give each suspect a worker of its own, the suspect that has waited longest first.

    ``alone``: epochs where a suspect runs now; ``emptying``: what this returned before. Those workers are preferred, or
    one after another would be emptied for nothing. The fastest empty worker is taken at once; if none is empty, the
    worker that is done soonest is emptied.
    """
    kept_max = max(1, sum(worker.ended is None for worker in workers) // SHARE)
    kept = len(alone)
    assign: list[tuple[str, str]] = []
    chosen: set[str] = set()
    holds: list[Hold] = []
    for view in sorted(lanes, key=lambda view: view.job):
        if is_paused(view.lane.ingress, paused):
            holds.append(Hold(view.name, "paused", view.depth, {}))
            continue
        fit = [worker for worker in workers if all(rule.refuses(view.lane, worker) is None for rule in filters)]
        free = [worker for worker in fit if worker.epoch not in alone and worker.epoch not in chosen]
        left = view.depth
        while left and free and kept + len(chosen) < kept_max:
            taken = min(free, key=lambda worker: _rank(worker, view.lane.model, emptying))
            free.remove(taken)
            chosen.add(taken.epoch)
            left -= 1
            if not taken.leases:
                assign.append((view.name, taken.epoch))
        waiting = view.depth - sum(name == view.name for name, _ in assign)
        if waiting:
            holds.append(Hold(view.name, "alone" if fit else "unroutable", waiting, {}))
    return Quarantine(tuple(assign), frozenset(chosen - {epoch for _, epoch in assign}), tuple(holds))


def _rank(worker: WorkerView, model: str, emptying: Collection[str]) -> tuple[bool, bool, float, str]:
    """Lowest first: empty workers, the fastest first; then workers being emptied; then the worker that is done soonest."""
    speed = worker.speed(model) * worker.concurrency
    return worker.leases > 0, worker.epoch not in emptying, worker.leased_cost_ms / speed if worker.leases else -speed, worker.epoch
